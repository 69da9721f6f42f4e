"""What users of Leyden import: the message types a reward function sees, and a client of the registry."""

from leyden.registry import RegistryClient, RegistryFailed
from leyden_schemas import RewardTerm, Step, Task, Trajectory

__all__ = ["RegistryClient", "RegistryFailed", "RewardTerm", "Step", "Task", "Trajectory"]
