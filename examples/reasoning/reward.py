"""What a good answer is: one that reasoning-gym gives full marks."""

from reasoning_gym import create_dataset

import leyden

CHAIN_SUM = create_dataset("chain_sum", size=1, seed=0)


@leyden.reward(name="reasoning")
def reward(trajectory: leyden.Trajectory) -> float:
    """What Leyden calls for every finished rollout."""
    return score(str(trajectory.output), str(trajectory.task.reference))


def score(answer: str, reference: str) -> float:
    """1.0 for full marks, else 0.0: a wrong number gets some when it contains the right one."""
    marks = CHAIN_SUM.score_answer(answer, {"answer": reference})
    return 1.0 if marks >= 1.0 else 0.0
