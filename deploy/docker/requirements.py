"""Prints what one extra of pyproject.toml needs, so that an image installs dependencies before code.

``python requirements.py gateway`` follows extras that name other extras of this distribution. It needs
nothing but the standard library, because it runs in a bare base image.
"""

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SELF = re.compile(r"^leyden\[(?P<extras>[^\]]+)\]$")


def requirements(project: Mapping[str, Any], extra: str) -> list[str]:
    """The base dependencies and those of ``extra``, once each. Raises ``KeyError`` if there is none."""
    return sorted({*project["dependencies"], *_expand(project["optional-dependencies"], extra)})


def _expand(extras: Mapping[str, Sequence[str]], extra: str) -> set[str]:
    found: set[str] = set()
    for requirement in extras[extra]:
        if match := SELF.match(requirement):
            for name in match["extras"].split(","):
                found |= _expand(extras, name.strip())
        else:
            found.add(requirement)
    return found


if __name__ == "__main__":
    pyproject = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    sys.stdout.write("\n".join([*requirements(pyproject["project"], sys.argv[1]), ""]))
