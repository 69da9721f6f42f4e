"""Which weights and names of rules go together."""

import math
from collections.abc import Collection, Mapping

from leyden_reward.air.rules import RULES


def problem_of(weights: Mapping[str, float], own: Collection[str] = ()) -> str | None:
    """What is wrong with weights over the defaults and the names of a user's rules; None if nothing."""
    known = {rule.name: rule.weight for rule in RULES}
    if taken := sorted({*own} & known.keys()):
        return f"LEYDEN_CATALOGUE_RULES: {', '.join(taken)} is a rule that exists; choose another name"
    if reserved := sorted(name for name in own if name.startswith("signal.")):
        return (
            f"LEYDEN_CATALOGUE_RULES: {', '.join(reserved)}: names of signals begin so; choose another name"
        )
    names = [*known, *sorted(own)]
    if unknown := sorted(weights.keys() - {*names}):
        return f"air_weights: no rule {', '.join(unknown)}; the rules are {', '.join(names)}"
    if infinite := sorted(name for name, weight in weights.items() if not math.isfinite(weight)):
        return f"air_weights: {', '.join(infinite)}: give a finite number"
    return _farmable({**known, **weights})


def _farmable(weights: Mapping[str, float]) -> str | None:
    gain, cost = weights["recovered_error"], -weights["tool_call_failed"]
    if gain <= 0 or gain < cost:
        return None
    return (
        f"air_weights: recovered_error pays {gain:g} and tool_call_failed costs {cost:g}, so it would pay to "
        "provoke errors; make the recovery worth less than the error costs, or 0"
    )
