"""The arguments of a call are JSON, but not what the tool declared."""

from collections.abc import Sequence

from leyden_platform.conversation import Call, Turn
from leyden_reward.air.json_schemas import Schemas
from leyden_reward.air.rule import Rule


def violations(turns: Sequence[Turn]) -> list[float]:
    """How many calls of offered tools break the tool's parameter schema; what is no schema asks nothing."""
    schemas = Schemas()

    def violates(call: Call, turn: Turn) -> bool:
        if call.parsed is None or turn.tools is None or call.name not in turn.tools:
            return False
        return not schemas.allow(turn.tools[call.name], call)

    return [float(sum(violates(call, turn) for call in turn.calls)) for turn in turns]


RULE = Rule(
    "schema_violation",
    violations,
    weight=-0.05,
    at_most=3,
    per="call",
    sees="arguments that break the JSON Schema of the tool's parameters",
    why="strict tools refuse such arguments, lax ones guess at them",
)
