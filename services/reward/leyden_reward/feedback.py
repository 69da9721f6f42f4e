"""What people's feedback is worth: thumbs and scores on a scale of rewards, and no reward without any.

Feedback on the whole rollout goes before feedback on single completions, and who changed their mind is
taken at the last word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from leyden_reward.rewards.verdict import Graded, Reason, Refused, Verdict
from leyden_schemas import RewardSpec, RewardTerm, Step, Trajectory
from leyden_schemas.rewards import Feedback, params_of, parts_of

SIGNAL = "signal."
REWARD = "feedback"
"""The name of the reward that is made of feedback."""

Scale = Mapping[float, float]
"""Points of a piecewise linear function from a signal's value to a reward."""

SCALES: Mapping[str, Scale] = {
    "thumb": {-1.0: 0.0, 1.0: 1.0},
    "score": {0.0: 0.0, 1.0: 1.0},
    "correction": {1.0: 0.0},
}
"""Thumbs down and up, scores from 0 to 1, and an answer that had to be corrected."""


def scaled(value: float, scale: Scale) -> float:
    """The reward of a value: linear between the scale's points, constant beyond the outermost."""
    points = sorted(scale.items())
    if value <= points[0][0]:
        return points[0][1]
    for (low, below), (high, above) in pairwise(points):
        if value <= high:
            return below + (above - below) * (value - low) / (high - low)
    return points[-1][1]


@dataclass(frozen=True, slots=True)
class FeedbackReward:
    """The reward ``feedback`` of one rollout, by the signals about it."""

    signals: Sequence[RewardTerm]
    scales: Mapping[str, Scale]

    async def grade(self, trajectory: Trajectory) -> Verdict:
        """Its terms; a rollout that nobody said anything about has none, which is not a reward of 0."""
        params = params_of(trajectory.task.reward, Feedback)
        terms = graded(self.signals, trajectory.steps, params.scales or self.scales)
        if not terms:
            return Refused(Reason.NO_FEEDBACK, "nobody has given feedback that counts")
        return Graded(terms, REWARD)


def is_part_of(spec: RewardSpec) -> bool:
    """Whether a reward is feedback, or a composition of which it is a part."""
    if spec.name == REWARD:
        return True
    try:
        return any(map(is_part_of, parts_of(spec)))
    except ValueError:
        return False


def graded(
    signals: Sequence[RewardTerm], steps: Sequence[Step], scales: Mapping[str, Scale] = SCALES
) -> tuple[RewardTerm, ...]:
    """Terms ``feedback.<name>`` whose sum is the mean of all that was said; none when nothing was.

    Of ``signals``, about the rollout, else of those about ``steps``, each name's last value counts.
    """
    said = _last_words(signals, scales) or [
        term for step in steps for term in _last_words(step.terms, scales)
    ]
    return tuple(
        RewardTerm(
            name=f"feedback.{(name := term.name.removeprefix(SIGNAL))}",
            value=scaled(term.value, scales[name]),
            weight=1.0 / len(said),
            feedback=term.feedback,
        )
        for term in said
    )


def _last_words(terms: Sequence[RewardTerm], scales: Mapping[str, Scale]) -> list[RewardTerm]:
    found = {
        term.name: term
        for term in terms
        if term.name.startswith(SIGNAL) and term.name.removeprefix(SIGNAL) in scales
    }
    return list(found.values())
