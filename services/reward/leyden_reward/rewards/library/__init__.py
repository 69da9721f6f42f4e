"""The rewards that need no user code. Their parameters are in ``leyden_schemas.rewards``.

Each raises ``TaskFault`` when the task does not say what a right answer is; whatever the agent answered, it
does not raise. ``QUICK`` ones take time linear in the text and run in place. The others run what the task or
the agent wrote, a pattern or a query, and so run in the workers, which end what does not end.
"""

from collections.abc import Callable, Mapping
from typing import Any

from leyden_reward.rewards.library.exact_match import exact_match
from leyden_reward.rewards.library.multiple_choice import multiple_choice
from leyden_reward.rewards.library.numeric import numeric
from leyden_reward.rewards.library.overlong import overlong
from leyden_reward.rewards.library.token_f1 import token_f1
from leyden_schemas import Trajectory

QUICK: Mapping[str, Callable[[Trajectory], Any]] = {
    "exact_match": exact_match,
    "numeric": numeric,
    "multiple_choice": multiple_choice,
    "token_f1": token_f1,
    "overlong": overlong,
}
IN_WORKERS: Mapping[str, str] = {
    name: f"leyden_reward.rewards.library.{name}:{name}" for name in ("regex", "json_schema", "sql")
}
