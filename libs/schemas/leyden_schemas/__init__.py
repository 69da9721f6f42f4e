"""The contracts of Leyden: every message that travels on a topic, its key, and how its id is derived.

Import the names from here; the modules are split by who writes the message.
"""

from leyden_schemas.base import BASE_QUEUE, QUEUE_NAME, JsonObject, Message, Topic, writable
from leyden_schemas.codec import MalformedMessage, decode, encode
from leyden_schemas.deadletters import DeadLetter
from leyden_schemas.deltas import CONVERSATION, UnknownBase, expand
from leyden_schemas.events import (
    CompletionRecorded,
    CompletionStatus,
    EventMessage,
    Mode,
    Outcome,
    PromptBase,
    Protocol,
    RolloutFinished,
    RolloutStarted,
    SamplingUsed,
    SignalRecorded,
    Timings,
    Usage,
)
from leyden_schemas.ids import cause_id, new_id, parse_policy_ref, policy_at, policy_ref
from leyden_schemas.models import AliasMoved, ModelMessage, ModelPublished, WeightsKind
from leyden_schemas.samples import TokenRow, TokenSpan, TrainingSample
from leyden_schemas.tasks import Limits, RewardSpec, RolloutAssigned, Sampling, Split, Task
from leyden_schemas.topics import Topics
from leyden_schemas.trajectories import RewardTerm, Step, Trajectory, TrajectoryStatus

__all__ = [
    "BASE_QUEUE",
    "CONVERSATION",
    "QUEUE_NAME",
    "AliasMoved",
    "CompletionRecorded",
    "CompletionStatus",
    "DeadLetter",
    "EventMessage",
    "JsonObject",
    "Limits",
    "MalformedMessage",
    "Message",
    "Mode",
    "ModelMessage",
    "ModelPublished",
    "Outcome",
    "PromptBase",
    "Protocol",
    "RewardSpec",
    "RewardTerm",
    "RolloutAssigned",
    "RolloutFinished",
    "RolloutStarted",
    "Sampling",
    "SamplingUsed",
    "SignalRecorded",
    "Split",
    "Step",
    "Task",
    "Timings",
    "TokenRow",
    "TokenSpan",
    "Topic",
    "Topics",
    "TrainingSample",
    "Trajectory",
    "TrajectoryStatus",
    "UnknownBase",
    "Usage",
    "WeightsKind",
    "cause_id",
    "decode",
    "encode",
    "expand",
    "new_id",
    "parse_policy_ref",
    "policy_at",
    "policy_ref",
    "writable",
]
