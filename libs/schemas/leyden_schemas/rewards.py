"""The rewards that need no user code, by name, and what each can be told.

They are part of the contract: whoever writes a task names one, the runner refuses a task that misspells its
parameters, and the reward service reads the same models.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from leyden_schemas.base import Name
from leyden_schemas.tasks import RewardSpec

MOST_PARTS = 32
DEEPEST = 8
P = TypeVar("P", bound="RewardParams")
Text = Annotated[str, Field(min_length=1, max_length=100_000)]


class Names(Protocol):
    """Names that can be looked up: those of the user's rewards."""

    def __contains__(self, name: str, /) -> bool: ...


class UnknownReward(ValueError):
    """A name that is neither in the library nor the user's."""


class RewardParams(BaseModel):
    """``task.reward.params`` of one reward; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ExactMatch(RewardParams):
    """Of ``exact_match``."""

    ignore_case: bool = False


class Numeric(RewardParams):
    """Of ``numeric``."""

    tolerance: float = Field(default=1e-6, ge=0, description="Absolute.")
    relative: float = Field(default=0.0, ge=0, description="A share of the reference.")


class MultipleChoice(RewardParams):
    """Of ``multiple_choice``."""

    choices: str | list[str] = Field(
        default="ABCDEFGHIJ",
        min_length=1,
        max_length=100,
        description="The choices there are: a text of letters or digits, or a list of those and of words.",
    )

    @field_validator("choices")
    @classmethod
    def _differ(cls, choices: str | list[str]) -> str | list[str]:
        names = [" ".join(choice.upper().split()) for choice in choices]
        if not all(names) or len(set(names)) < len(names):
            raise ValueError("choices have to differ, whatever their case, and none is blank")
        if isinstance(choices, str) and not (choices.isascii() and choices.isalnum()):
            raise ValueError("a text holds one letter or digit for each choice; for words give a list")
        return choices


class TokenF1(RewardParams):
    """Of ``token_f1``: none."""


class Regex(RewardParams):
    """Of ``regex``."""

    pattern: str | None = Field(default=None, description="The reference, unless given.")
    full: bool = Field(default=False, description="The whole output has to match.")
    flags: str = Field(default="", pattern="^[imsx]*$", description="Letters of i, m, s, x.")


class JsonSchema(RewardParams):
    """Of ``json_schema``."""

    schema_: Any = Field(default=None, alias="schema", description="The reference, unless given.")


class Overlong(RewardParams):
    """Of ``overlong``."""

    max_tokens: int = Field(gt=0)
    buffer: float | None = Field(default=None, gt=0, description="A quarter of max_tokens, unless given.")

    @model_validator(mode="after")
    def _fits(self) -> "Overlong":
        if self.buffer is not None and self.buffer > self.max_tokens:
            raise ValueError("buffer is at most max_tokens")
        return self


class Sql(RewardParams):
    """Of ``sql``."""

    database: str | None = Field(default=None, min_length=1, description="One of LEYDEN_REWARD_DATABASES.")
    setup: Text | None = Field(default=None, description="SQL that fills an empty database.")
    ordered: bool | None = Field(
        default=None,
        description="Whether the order of rows counts. Unless given: if the reference has ORDER BY.",
    )
    cpu_s: float = Field(default=5.0, gt=0, le=60, description="Computing time of each query.")

    @model_validator(mode="after")
    def _one_database(self) -> "Sql":
        if (self.database is None) == (self.setup is None):
            raise ValueError("give either database, a name of LEYDEN_REWARD_DATABASES, or setup, SQL")
        return self


class PythonTests(RewardParams):
    """Of ``python_tests``."""

    tests: Text | list[Text] | None = Field(
        default=None, description="Python, in one piece or several; the reference, unless given."
    )
    entry_point: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="What a check(candidate) in the tests is called with, such as a function's name.",
    )
    partial: bool = Field(default=False, description="The share of tests passed, instead of all or nothing.")
    cpu_s: float = Field(default=10.0, gt=0, le=120, description="Computing time of all tests together.")
    memory_mb: int = Field(default=512, ge=64, le=8192)


class Judge(RewardParams):
    """Of ``judge``."""

    rubric: Text = Field(description="What a good answer is, in words.")
    show: Literal["output", "conversation"] = "output"
    reference: bool = Field(default=True, description="Whether the judge sees the task's reference.")
    model: str | None = Field(
        default=None, min_length=1, description="Unless given, LEYDEN_REWARD_JUDGE_MODEL."
    )


class Ruler(RewardParams):
    """Of ``ruler``."""

    rubric: Text | None = Field(default=None, description="What matters, in words.")
    show: Literal["output", "conversation"] = "conversation"
    reference: bool = Field(default=True, description="Whether the judge sees the task's reference.")
    model: str | None = Field(
        default=None, min_length=1, description="Unless given, LEYDEN_REWARD_JUDGE_MODEL."
    )


class Feedback(RewardParams):
    """Of ``feedback``."""

    scales: dict[str, dict[float, float]] | None = Field(
        default=None,
        description="Signal to points of value and reward; unless given, LEYDEN_REWARD_FEEDBACK_SCALES.",
    )

    @model_validator(mode="after")
    def _have_points(self) -> "Feedback":
        if self.scales is not None and not all(self.scales.values()):
            raise ValueError('a scale has at least one point, as in {"thumb": {"-1": 0, "1": 1}}')
        return self


class Part(RewardSpec):
    """A reward within ``weighted``; its terms are called ``label``, which is its name unless given."""

    weight: float = Field(default=1.0, ge=-1e6, le=1e6)
    label: Name | None = None


class Weighted(RewardParams):
    """Of ``weighted``: the sum of the parts' rewards, each times its weight."""

    of: list[Part] = Field(min_length=1, max_length=MOST_PARTS)

    @model_validator(mode="after")
    def _labels_differ(self) -> "Weighted":
        labels = [part.label or part.name for part in self.of]
        if len(set(labels)) < len(labels):
            raise ValueError(f"parts have to differ in name or label, not {', '.join(labels)}")
        return self


class Gated(RewardParams):
    """Of ``gated``: what ``then`` is worth where ``gate`` is worth enough, else ``otherwise``."""

    gate: RewardSpec
    then: RewardSpec
    at_least: float = 1.0
    otherwise: float = 0.0


class Clipped(RewardParams):
    """Of ``clipped``: what ``of`` is worth, between two bounds."""

    of: RewardSpec
    low: float
    high: float

    @model_validator(mode="after")
    def _bounds(self) -> "Clipped":
        if self.low > self.high:
            raise ValueError("low is at most high")
        return self


LIBRARY: Mapping[str, type[RewardParams]] = {
    "exact_match": ExactMatch,
    "numeric": Numeric,
    "multiple_choice": MultipleChoice,
    "token_f1": TokenF1,
    "regex": Regex,
    "json_schema": JsonSchema,
    "overlong": Overlong,
    "sql": Sql,
    "python_tests": PythonTests,
    "judge": Judge,
    "ruler": Ruler,
    "feedback": Feedback,
    "weighted": Weighted,
    "gated": Gated,
    "clipped": Clipped,
}
"""Every reward that needs no user code."""


def params_of(spec: RewardSpec, kind: type[P]) -> P:
    """The parameters of a reward. Raises ``ValueError`` that names the wrong ones and those there are."""
    try:
        return kind.model_validate(spec.params)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])) or 'params'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False, include_input=False)[:8]
        ]
        known = [field.alias or name for name, field in kind.model_fields.items()]
        raise ValueError(
            f"reward.params of {spec.name}: {'; '.join(problems)}. It takes {', '.join(known) or 'none'}"
        ) from None


def parts_of(spec: RewardSpec) -> list[RewardSpec]:
    """The rewards that a composition is made of, one level down. Raises like ``params_of``."""
    match spec.name:
        case "weighted":
            return [RewardSpec(name=part.name, params=part.params) for part in params_of(spec, Weighted).of]
        case "gated":
            gated = params_of(spec, Gated)
            return [gated.gate, gated.then]
        case "clipped":
            return [params_of(spec, Clipped).of]
        case _:
            return []


def leaves(spec: RewardSpec, own: Names = (), *, level: int = 1) -> Iterator[RewardSpec]:
    """The rewards that are no compositions, checked on the way; ``own`` names the user's, which go first.

    Raises ``UnknownReward``, and ``ValueError`` for wrong parameters and compositions nested too deep.
    """
    if spec.name in own:
        yield spec
        return
    if spec.name not in LIBRARY:
        raise UnknownReward(f"reward {spec.name!r} is not known")
    if level > DEEPEST:
        raise ValueError(f"rewards are nested deeper than {DEEPEST} levels")
    params_of(spec, LIBRARY[spec.name])
    parts = parts_of(spec)
    if not parts:
        yield spec
    for part in parts:
        yield from leaves(part, own, level=level + 1)
