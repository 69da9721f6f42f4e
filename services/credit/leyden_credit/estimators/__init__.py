"""Advantage estimators: one file each, found by its name. Adding one is adding a file.

A file defines one subclass of ``Estimator``; what else it holds is its own business.
"""

from collections.abc import Mapping
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules
from typing import Any

from pydantic import ValidationError

from leyden_credit.estimators.base import Advantages, Estimator

Choice = str | dict[str, Any]
"""An estimator's name, or ``{"name": …}`` with parameters beside it."""


def known() -> dict[str, type[Estimator]]:
    """Every estimator of this folder, by name."""
    found = {}
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        for estimator in _defined_in(f"{__name__}.{module.name}"):
            found[module.name] = estimator
    return found


def chosen(choice: str | Mapping[str, Any]) -> Estimator:
    """The estimator that was asked for. Raises ``ValueError`` with what there is to choose from."""
    parameters = {"name": choice} if isinstance(choice, str) else dict(choice)
    name = parameters.pop("name", None)
    estimators = known()
    if not isinstance(name, str) or name not in estimators:
        raise ValueError(f"no estimator is named {name!r}; choose one of {', '.join(estimators)}")
    try:
        return estimators[name](**parameters)
    except ValidationError as error:
        raise ValueError(_explained(name, estimators[name], error)) from None


def _defined_in(module: str) -> list[type[Estimator]]:
    return [
        value
        for value in vars(import_module(module)).values()
        if isinstance(value, type)
        and issubclass(value, Estimator)
        and value.__module__ == module
        and not isabstract(value)
    ]


def _explained(name: str, estimator: type[Estimator], error: ValidationError) -> str:
    wrong = "; ".join(
        f"{'.'.join(map(str, problem['loc']))} = {problem['input']!r}: {problem['msg']}"
        for problem in error.errors()
    )
    takes = ", ".join(f"{key} ({field.description})" for key, field in estimator.model_fields.items())
    return f"estimator {name}: {wrong}. It takes {takes or 'no parameters'}"


__all__ = ["Advantages", "Choice", "Estimator", "chosen", "known"]
