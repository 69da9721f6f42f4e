"""What callers may say in ``POST /v1/feedback``: one item, or a list of them under ``feedback``.

Everything is checked before anything is recorded, and a refusal names the item and the field.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from leyden_gateway.attribution.named import session_or_none
from leyden_gateway.errors import InvalidRequest
from leyden_gateway.exchange.fields import NotJson, parse
from leyden_schemas import Outcome

MAX_TEXT = 20_000
MAX_SCORE = 1e9
RESERVED = ("thumb", "score", "correction", "comment", "finish")

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Number = Annotated[float, Field(ge=-MAX_SCORE, le=MAX_SCORE, allow_inf_nan=False)]
SignalName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$")]


def _session(text: str) -> str:
    if (name := session_or_none(text)) is None:
        raise ValueError("a session is a text of at most 512 printable characters")
    return name


class Item(BaseModel):
    """Feedback on one session, rollout or completion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None,
        description="The caller's id: feedback with an id that is on the log already is dropped.",
    )
    session: Annotated[str, AfterValidator(_session)] | None = None
    rollout_id: Annotated[UUID, Field(strict=False)] | None = Field(
        default=None, description="x-leyden-rollout-id"
    )
    completion_id: Annotated[UUID, Field(strict=False)] | None = Field(
        default=None, description="x-leyden-completion-id"
    )
    thumb: Literal["up", "down"] | None = None
    score: Number | None = None
    correction: Text | None = Field(default=None, description="What the answer should have been.")
    comment: Text | None = None
    name: SignalName | None = Field(default=None, description="Any other measurement, with its value.")
    value: Number | None = None
    finish: bool = Field(default=False, description="The session is over.")
    outcome: Annotated[Outcome, Field(strict=False)] | None = Field(
        default=None, description="How it ended; succeeded when left out."
    )
    output: Any = Field(default=None, description="What came out of it, for reward functions.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        said = (self.thumb, self.score, self.correction, self.comment, self.name)
        if not self.finish and all(part is None for part in said):
            raise ValueError(
                "says nothing: give thumb, score, correction, comment, name with value, or finish"
            )
        if self.name in RESERVED:
            raise ValueError(f"{self.name} has a field of its own")
        if (self.name is None) != (self.value is None):
            raise ValueError("name and value belong together")
        if not self.finish and (self.outcome is not None or self.output is not None):
            raise ValueError("outcome and output belong to finish")
        if self.session is not None and self.rollout_id is not None:
            raise ValueError(
                "give session or rollout_id, not both: a session's rollout follows from its name"
            )
        return self


class _Batch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    feedback: list[Any] = Field(min_length=1)


_ITEMS = TypeAdapter(list[Item])
_OBJECT = TypeAdapter(dict[str, Any])


def parse_items(body: bytes, *, at_most: int) -> tuple[list[Item], bool]:
    """The items of a request, and whether they came as a batch. Raises ``InvalidRequest``."""
    try:
        parse(body)
        payload = _OBJECT.validate_json(body)
        batch = "feedback" in payload
        raw: Sequence[Any] = _Batch.model_validate(payload).feedback if batch else [payload]
        if len(raw) > at_most:
            raise InvalidRequest(
                f"feedback has {len(raw)} items; send at most {at_most} at once", param="feedback"
            )
        return _ITEMS.validate_python(raw), batch
    except NotJson as error:
        raise InvalidRequest(f"the feedback: {error}") from None
    except ValidationError as error:
        raise _refusal(error, batch=b'"feedback"' in body) from None


def _refusal(error: ValidationError, *, batch: bool) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    place = list(first["loc"])
    if place and isinstance(place[0], int):
        place = [f"feedback[{place[0]}]", *place[1:]] if batch else place[1:]
    where = ".".join(str(part) for part in place if "-" not in str(part))
    why = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{where or 'the feedback'}: {why}", param=where or None)
