"""``ruler``: a model scores the rollouts of one group against each other, in one call.

After RULER of OpenPipe's ART: what a group-relative advantage needs is how rollouts compare, which a model
tells more reliably than an absolute score. The text of the question is ours. Rollouts that look alike are one
entry, so that they get one score; the order of entries is that of their digests, so that no rollout is first
by its index.
"""

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from uuid import UUID

from leyden_reward.rewards.judging.answers import Score, scores_in
from leyden_reward.rewards.judging.client import JudgeClient, JudgeFailed
from leyden_reward.rewards.judging.judge import judged_by
from leyden_reward.rewards.judging.prompts import (
    RANKING_RUBRIC,
    Question,
    about_several,
    material_of,
    task_of,
)
from leyden_reward.rewards.verdict import Graded, Refused, Verdict
from leyden_schemas import RewardSpec, RewardTerm, Trajectory
from leyden_schemas.rewards import Ruler, params_of

_LEAST_CHARACTERS = 200
_TOKENS_EACH = 100


async def rank(client: JudgeClient, group: Sequence[Trajectory], spec: RewardSpec) -> dict[UUID, Verdict]:
    """The verdict on every rollout of a group, by its id. One failure is everybody's."""
    params, settings = params_of(spec, Ruler), client.settings
    rubric = params.rubric or RANKING_RUBRIC
    most = max(settings.max_characters // (2 * len(group)), _LEAST_CHARACTERS)
    shown = {rollout.rollout_id: material_of(rollout, params.show, most) for rollout in group}
    materials = sorted(set(shown.values()), key=lambda text: sha256(text.encode()).digest())
    question = about_several(
        materials,
        task_of(group[0], reference=params.reference, most=settings.max_characters // 4),
        rubric=rubric,
        model=params.model or settings.model,
        max_tokens=settings.max_tokens + _TOKENS_EACH * len(materials),
    )
    try:
        scores = await _scores(client, question, len(materials), group[0].group_id)
    except JudgeFailed as error:
        return {rollout.rollout_id: Refused(error.reason, str(error)) for rollout in group}
    by_material = dict(zip(materials, scores, strict=True))
    by = judged_by("ruler", question.model, rubric)
    return {rollout_id: _graded(by_material[text], by) for rollout_id, text in shown.items()}


async def _scores(client: JudgeClient, question: Question, count: int, group_id: UUID) -> list[Score]:
    parse = partial(scores_in, question=question, count=count)
    return await client.ask(question, parse, about=f"ruler-{group_id}")


def _graded(score: Score, by: str) -> Graded:
    return Graded((RewardTerm(name="reward", value=score.value, feedback=score.why or None),), by)


class Ranked:
    """The verdicts of a ranked group, where a composition looks for them: by reward and rollout."""

    def __init__(self) -> None:
        self._verdicts: dict[str, dict[UUID, Verdict]] = {}

    def add(self, spec: RewardSpec, verdicts: dict[UUID, Verdict]) -> None:
        """What ``rank`` gave for a reward."""
        self._verdicts[spec.model_dump_json()] = verdicts

    async def grade(self, trajectory: Trajectory) -> Verdict:
        """The verdict on a rollout of the group."""
        return self._verdicts[trajectory.task.reward.model_dump_json()][trajectory.rollout_id]


class RulerReward:
    """Where there is no group to compare with: a rollout is scored alone."""

    def __init__(self, client: JudgeClient) -> None:
        self._client = client

    async def grade(self, trajectory: Trajectory) -> Verdict:
        """The verdict on a group of one."""
        verdicts = await rank(self._client, [trajectory], trajectory.task.reward)
        return verdicts[trajectory.rollout_id]
