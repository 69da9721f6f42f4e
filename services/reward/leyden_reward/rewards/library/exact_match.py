"""Is the output the reference?"""

from leyden_reward.rewards.library.texts import plain, reference_of
from leyden_schemas import Trajectory
from leyden_schemas.rewards import ExactMatch, params_of


def exact_match(trajectory: Trajectory) -> float:
    """1 when the output is the reference, else 0.

    Texts are compared without surrounding blanks, other values as JSON, so ``42`` matches ``"42"``. No output
    is no text, not even ``null``.
    Raises ``TaskFault`` when the task has no reference.
    """
    given, wanted = plain(trajectory.output), plain(reference_of(trajectory))
    if params_of(trajectory.task.reward, ExactMatch).ignore_case:
        given, wanted = given.casefold(), wanted.casefold()
    return float(trajectory.output is not None and given == wanted)
