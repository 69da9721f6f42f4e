"""Whether a tool's text reports a failure, for agents that say it in no other way.

A guess, and a cautious one: a text about errors is none. What counts is an object that says so, or a text
that begins as messages of errors do.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

_LONGEST = 65_536
_HEAD = 400
"""Characters of a text that are looked at."""

_NOTHING = r"(?!\s*(?:none|null|nil|n/a|0)\s*(?:$|\n))"
_CODE = r"(?:\s+code)?(?:\s*[\[(#]?-?(?=\w*\d)\w{1,12}[\])]?)?"
_END = r"\s*(?:[.!]|\s-\s|$|\n)"

_LABEL = rf"""
    (?:error|exception|failure|fatal){_CODE}(?:\s*:{_NOTHING}|{_END})
  | (?!(?:standard|margin|mean|root|average|relative|absolute|squared)\b)
    (?:[\w-]+\ ){{1,3}}error{_CODE}\s*:(?!\s*[-+]?[\d.]){_NOTHING}
  | (?:error|exception)\ (?:executing|calling|invoking|running|while|when|during|occurred|parsing|reading
      |writing|opening|fetching|loading|processing|(?:in|at|from|on)\b[^\n:]{{0,80}}:)
  | an\ (?:[\w-]+\ ){{0,2}}(?:error|exception)\ (?:has\ )?occurred\b
  | [\[(<](?:tool[\ _])?(?:use[\ _])?(?:error|exception)[\])>]
"""
"""The word with what makes it a label; a measured error is a number."""

_RAISED = r"""
    traceback\ \(most\ recent\ call\ last\)
  | (?:(?:uncaught|unhandled)\ (?:\(in\ promise\)\ )?)?
    (?-i:[A-Za-z_][\w.]{0,200}(?:Error|Exception))(?:\s*(?::|$|\n)|\()
  | (?:uncaught|unhandled)\ (?:error|exception)\b
  | \d+\ validation\ errors?\ for\b
"""

_NOT_DONE = rf"""
    (?:failed|unable)\ to\ \w | could(?:\ not|n['’]t)\ \w
  | can(?:not|['’]t|\ not)\ (?:find|open|read|write|connect|access|resolve|load|import|parse|create|stat
      |locate|execute|remove|delete)\b
  | (?:\w+\ ){{0,2}}(?:tool|command|request|call|execution|operation|query|connection|authentication|login)
    (?:\ \S{{1,60}})?\ failed\b(?:\s*:{_NOTHING}|{_END}|\ (?:with|after|because|due)\b)
  | (?:tool|function)\ (?:\S{{1,80}}\ )?(?:not\ found|does\ not\ exist)\b
  | (?:invalid|missing|unknown|unsupported)\ (?:required\ )?
    (?:tool|command|function|option|(?:argument|parameter|input|field|value)s?|json|request|url|credentials)\b(?!\s*:(?!{_NOTHING}))
"""

_STATUS = r"""(?:bad\ request|unauthorized|forbidden|not\ found|method\ not\ allowed|request\ timeout|conflict
  |too\ many\ requests|internal\ server\ error|bad\ gateway|service\ unavailable|gateway\ time-?out)"""
_HTTP = rf"""
    http(?:/[\d.]+)?\ (?:status\ )?(?:code\ )?(?:error\ )?[45]\d\d
    \s*(?:$|[\n:;,.(-]|(?:{_STATUS}|from|while|when|for|error)\b)
  | (?:status(?:\ code)?:?\ )?[45]\d\d:?\ {_STATUS}(?::|{_END})
  | {_STATUS}(?:\s*:{_NOTHING}|{_END})
  | (?:rate\ limit|quota)\ exceeded\b
  | (?:(?:request|operation|command|tool|connection)\ )?timed\ out(?:\s*:|{_END}|\ after\b)
"""

_SYSTEM = rf"""
    (?:[^\n]{{1,200}}:\ )?
    (?:command\ not\ found|no\ such\ file\ or\ directory|(?:permission|access)\ denied
      |operation\ not\ permitted|(?:is|not)\ a\ directory|file\ exists|no\ space\ left\ on\ device
      |connection\ (?:refused|reset|timed\ out)|(?:name|host)\ (?:or\ service\ )?not\ known)
    (?:\s*:|{_END})
"""
"""What shells and systems say, perhaps after the name of the program."""

_ERROR_TEXT = re.compile(
    rf"[\s*_#>`❌✗⚠️]{{0,8}}(?:{_LABEL}|{_RAISED}|{_NOT_DONE}|{_HTTP}|{_SYSTEM})", re.IGNORECASE | re.VERBOSE
)


def says_error(result: str) -> bool:
    """Whether it is an error object or a list of such, or begins as an error's text does."""
    if result.lstrip()[:1] not in ("{", "[", '"') or len(result) > _LONGEST:
        return _text_says_error(result)
    try:
        value = json.loads(result)
    except (ValueError, RecursionError):
        return _text_says_error(result)
    return _says_error(value)


def _text_says_error(text: str) -> bool:
    return bool(_ERROR_TEXT.match(text.lstrip()[:_HEAD]))


def _says_error(value: Any) -> bool:
    """Of a list, all must: where some of what was asked for worked, the call did."""
    match value:
        case str():
            return _text_says_error(value)
        case [*_]:
            return bool(value) and all(isinstance(item, dict) and _says_error(item) for item in value)
        case {"type": "text", "text": str() as text}:
            return _text_says_error(text)
        case dict():
            return _object_says_error(value)
        case _:
            return False


def _object_says_error(value: Mapping[str, Any]) -> bool:
    flagged = any(value.get(key) is True for key in ("isError", "is_error"))
    failed = any(value.get(key) is False for key in ("ok", "success"))
    told = any(_is_told(value.get(key)) for key in ("error", "errors", "exception"))
    return flagged or failed or told or _is_bad(value.get("status")) or _is_bad(value.get("status_code"))


def _is_told(error: Any) -> bool:
    """Whether it is the value of an error; a fraction is a measurement."""
    if isinstance(error, str):
        return error.strip().lower() not in ("", "none", "null")
    return bool(error) and not isinstance(error, float)


def _is_bad(status: Any) -> bool:
    return status in ("error", "failed", "failure") or (type(status) is int and 400 <= status < 600)
