"""What users of Leyden import: rewards and rules, the messages that they see, a client of the registry.

Importing it is cheap: it runs in agents and in reward workers. What needs more is imported when it is used.
"""

from typing import TYPE_CHECKING, Any

from leyden.examples import example_trajectory
from leyden.rewards import Reward, RewardFunction, reward
from leyden.rules import rule
from leyden_platform.conversation import Call, Turn, turns
from leyden_schemas import RewardTerm, Step, Task, Trajectory

if TYPE_CHECKING:
    from leyden.feedback_client import FeedbackFailed, feedback
    from leyden.registry import RegistryClient, RegistryFailed

__all__ = [
    "Call",
    "FeedbackFailed",
    "RegistryClient",
    "RegistryFailed",
    "Reward",
    "RewardFunction",
    "RewardTerm",
    "Step",
    "Task",
    "Trajectory",
    "Turn",
    "example_trajectory",
    "feedback",
    "reward",
    "rule",
    "turns",
]


def __getattr__(name: str) -> Any:
    if name in ("RegistryClient", "RegistryFailed"):
        from leyden import registry

        return getattr(registry, name)
    if name in ("FeedbackFailed", "feedback"):
        from leyden import feedback_client

        return getattr(feedback_client, name)
    raise AttributeError(f"module 'leyden' has no attribute {name!r}")
