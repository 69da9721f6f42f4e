"""``judge``: a model scores one answer against a rubric."""

from functools import partial
from hashlib import sha256

from leyden_reward.rewards.judging.answers import score_in
from leyden_reward.rewards.judging.client import JudgeClient, JudgeFailed
from leyden_reward.rewards.judging.prompts import about_one, material_of, task_of
from leyden_reward.rewards.verdict import Graded, Refused, Verdict
from leyden_schemas import RewardTerm, Trajectory
from leyden_schemas.rewards import Judge, params_of


class JudgeReward:
    """Grades by asking ``client``."""

    def __init__(self, client: JudgeClient) -> None:
        self._client = client

    async def grade(self, trajectory: Trajectory) -> Verdict:
        """A score from 0 to 1 with the judge's reason as feedback; no verdict excludes the rollout."""
        params, settings = params_of(trajectory.task.reward, Judge), self._client.settings
        half = settings.max_characters // 2
        question = about_one(
            material_of(trajectory, params.show, half),
            task_of(trajectory, reference=params.reference, most=half // 2),
            rubric=params.rubric,
            model=params.model or settings.model,
            max_tokens=settings.max_tokens,
        )
        try:
            parse = partial(score_in, question=question)
            score = await self._client.ask(question, parse, about=f"judge-{trajectory.rollout_id}")
        except JudgeFailed as error:
            return Refused(error.reason, str(error))
        term = RewardTerm(name="reward", value=score.value, feedback=score.why or None)
        return Graded((term,), judged_by("judge", question.model, params.rubric))


def judged_by(name: str, model: str, rubric: str) -> str:
    """Who judged by what: the reward, the model and a digest of the rubric."""
    return f"{name}:{model}#{sha256(rubric.encode()).hexdigest()[:12]}"
