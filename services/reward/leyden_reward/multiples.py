"""JSON Schema's ``multipleOf``, exact: 19.99 is a multiple of 0.01, but not among binary fractions."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from jsonschema import ValidationError


def multiple_of(validator: Any, factor: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """The keyword. Raises ``ValueError`` for what is infinite, or has more digits than Python writes."""
    if validator.is_type(instance, "number") and Fraction(repr(instance)) % Fraction(repr(factor)):
        yield ValidationError(f"{instance!r} is not a multiple of {factor!r}")
