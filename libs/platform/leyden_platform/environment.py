"""Settings read from the environment. What is wrong, or read by nobody, is told by the variable's name."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_origin

from pydantic import ValidationError
from pydantic_core import from_json
from pydantic_settings import BaseSettings, SettingsError

LoadedT = TypeVar("LoadedT", bound=BaseSettings)
CLIENTS = frozenset({"LEYDEN_GATEWAY_URL", "LEYDEN_REGISTRY_URL"})
"""What the command line and the client library read, not the services of these names."""


class BadSettings(ValueError):
    """Variables have values that nothing can start with; the text has a line for each, with the fix."""


def read_settings(settings_type: type[LoadedT]) -> LoadedT:
    """Settings from the environment. Raises ``BadSettings``."""
    try:
        return settings_type()
    except (ValidationError, SettingsError) as error:
        raise BadSettings("\n".join(problems(error, settings_type))) from None


def problems(error: ValidationError | SettingsError, *settings_types: type[BaseSettings]) -> list[str]:
    """What is wrong with which variable of these settings; values, which may be secrets, are not told."""
    known = [group for each in settings_types for group in groups(each)]
    if isinstance(error, SettingsError):
        return [*_not_json(known, str(error))] or [str(error)]
    prefix = next((_prefix(group) for group in known if group.__name__ == error.title), "")
    return [
        f"{prefix}{'__'.join(map(str, item['loc'])).upper() or '*'}: "
        + item["msg"].removeprefix("Value error, ")
        for item in error.errors(include_url=False, include_input=False)
    ]


def unread(settings_type: type[BaseSettings]) -> list[str]:
    """Variables of the environment that have a prefix of these settings and that none of them reads."""
    names = {name for group in groups(settings_type) for name in _names(group)}
    prefixes = tuple(prefix for group in groups(settings_type) if (prefix := _prefix(group)))
    return sorted(
        name
        for name in os.environ.keys() - names - CLIENTS
        if name.startswith(prefixes) and name.partition("__")[0] not in names
    )


def groups(settings_type: type[BaseSettings]) -> Iterator[type[BaseSettings]]:
    """The settings and all that they hold."""
    yield settings_type
    for field in settings_type.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseSettings):
            yield from groups(field.annotation)


def _prefix(group: type[BaseSettings]) -> str:
    return group.model_config.get("env_prefix", "")


def _names(group: type[BaseSettings]) -> Iterator[str]:
    return (f"{_prefix(group)}{field}".upper() for field in group.model_fields)


def _not_json(known: Sequence[type[BaseSettings]], told: str) -> Iterator[str]:
    """pydantic-settings tells the field, and neither its class nor the variable: look which one it is."""
    fields = {
        name: field
        for group in known
        for name, field in zip(_names(group), group.model_fields.values(), strict=True)
        if f'"{name.removeprefix(_prefix(group)).lower()}"' in told
    }
    for variable in sorted(os.environ):
        name, _, rest = variable.partition("__")
        composed = name in fields and _composed(fields[name].annotation, rest)
        if composed and (reason := _unparsable(os.environ[variable])):
            form = '["a", "b"] for a list and {"a": 1} for a table'
            yield f"{variable}: not JSON, which is {form} ({reason})"


def _composed(annotation: Any, rest: str) -> bool:
    """Whether a variable must hold JSON: ``rest`` is what follows the field's name, one level down."""
    if not rest:
        return True
    inner = annotation.model_fields.get(rest.lower()) if hasattr(annotation, "model_fields") else None
    return inner is not None and get_origin(inner.annotation) in (list, dict, tuple)


def _unparsable(text: str) -> str | None:
    try:
        from_json(text)
    except ValueError as error:
        return str(error)
    return None
