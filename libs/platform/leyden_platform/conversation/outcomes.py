"""Whether a tool's text reports a failure, for agents that say it in no other way."""

import json
import re
from collections.abc import Mapping
from typing import Any

_LONGEST = 65_536
_ERROR_TEXT = re.compile(
    r"\s*(?:(?i:error|exception|traceback \(most recent call last\))(?!\w)"
    r"|[A-Za-z_][\w.]{0,200}(?:Error|Exception)\b)"
)


def says_error(result: str) -> bool:
    """Whether it is an error object, or begins with an error. Text too long to be one is none."""
    if result.lstrip()[:1] not in ("{", '"') or len(result) > _LONGEST:
        return bool(_ERROR_TEXT.match(result))
    try:
        value = json.loads(result)
    except (ValueError, RecursionError):
        return bool(_ERROR_TEXT.match(result))
    if isinstance(value, str):
        return bool(_ERROR_TEXT.match(value))
    return isinstance(value, dict) and _object_says_error(value)


def _object_says_error(value: Mapping[str, Any]) -> bool:
    flagged = any(value.get(key) is True for key in ("isError", "is_error"))
    failed = any(value.get(key) is False for key in ("ok", "success"))
    return flagged or failed or bool(value.get("error")) or value.get("status") in ("error", "failed")
