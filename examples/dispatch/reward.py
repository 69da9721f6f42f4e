"""What a good rollout is: the parcel was delivered, without a note on it."""

from leyden import Trajectory


def reward(trajectory: Trajectory) -> float:
    """What Leyden calls for every finished rollout."""
    return 1.0 if trajectory.output == trajectory.task.reference else 0.0
