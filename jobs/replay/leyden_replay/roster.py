"""Which rollouts a replay is about, told from their events at a glance, and which it saw in part."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from leyden_platform.messaging import Record
from leyden_schemas import RewardSpec, RolloutStarted, decode, encode, parse_policy_ref

_STARTED, _SIGNAL, _FINISHED = "rollout_started", "signal_recorded", "rollout_finished"


class NameTaken(ValueError):
    """A replay was given the name of the run that it goes over."""


class _TaskHead(BaseModel):
    policy: str


class _Head(BaseModel):
    """The few fields of an event that decide about it; everything else is skipped unread."""

    model_config = ConfigDict(extra="ignore")

    type: str
    rollout_id: UUID
    tenant: str = "default"
    run: str = "default"
    source: str = ""
    mode: str | None = None
    policy: str | None = None
    task: _TaskHead | None = None


_PRODUCTION = "production"
_HEAD = TypeAdapter(_Head)


class Chosen(NamedTuple):
    """A record as the services are to see it.

    ``alone`` says that what it leads to has to be known before the next: feedback on a rollout that is over
    makes the service read the log again, in its own time.
    """

    record: Record
    alone: bool = False


@dataclass(frozen=True, slots=True)
class RewardChange:
    """Another reward than the tasks name.

    With ``params`` None a task's own are kept where they mean something to it: when its reward had this name,
    or when ``own`` says that the function is the user's.
    """

    name: str
    params: dict[str, Any] | None = None
    own: bool = False

    def of(self, spec: RewardSpec) -> RewardSpec:
        """The spec that takes the place of a task's own."""
        if self.params is not None:
            return RewardSpec(name=self.name, params=self.params)
        kept = self.own or spec.name == self.name
        return RewardSpec(name=self.name, params=spec.params if kept else {})


@dataclass(frozen=True, slots=True)
class Selection:
    """What to go over: None is everything. ``policy`` is a name without version or alias."""

    tenant: str | None = None
    run: str | None = None
    policy: str | None = None

    def takes(self, head: _Head) -> bool:
        """Whether a rollout whose first event is this one is meant."""
        named = head.task.policy if head.task else head.policy
        return (
            self.tenant in (None, head.tenant)
            and self.run in (None, head.run)
            and (self.policy is None or named is None or _bare(named) == self.policy)
        )


class Roster:
    """Takes events in order; knows every rollout, whether it saw its start, and whether it is meant."""

    def __init__(self, name: str, selection: Selection, reward: RewardChange | None) -> None:
        self._name, self._selection, self._reward = name, selection, reward
        self._meant: dict[UUID, bool] = {}
        self._begun: set[UUID] = set()
        self._without_start: set[UUID] = set()
        self._over: set[UUID] = set()
        self.passed_over = 0

    def take(self, record: Record, *, counts: bool) -> Chosen | None:
        """What the services are to see of a record; None when its rollout is not meant.

        Bytes that are no event are handed on: the service that reads them says what is wrong. Raises
        ``NameTaken``.
        """
        try:
            head = _HEAD.validate_json(record.value or b"")
        except ValidationError:
            return Chosen(record)
        if not self._is_meant(head):
            self.passed_over += counts
            return None
        if head.type == _STARTED:
            self._begun.add(head.rollout_id)
            return Chosen(self._changed(record))
        if head.mode == _PRODUCTION:
            self._begun.add(head.rollout_id)
        elif counts and head.rollout_id not in self._begun:
            self._without_start.add(head.rollout_id)
        alone = bool(head.source) or (head.type == _SIGNAL and head.rollout_id in self._over)
        if head.type == _FINISHED:
            self._over.add(head.rollout_id)
        return Chosen(record, alone)

    def cut_off(self, ended: set[UUID]) -> tuple[int, int]:
        """Rollouts that began before what was read, and those that had not ended after it.

        Sessions have no start of their own, so one of which only the end was read is among the latter.
        """
        return len(self._without_start - ended), len(self._begun - ended)

    def _is_meant(self, head: _Head) -> bool:
        meant = self._meant.get(head.rollout_id)
        if meant is None:
            meant = self._meant[head.rollout_id] = self._selection.takes(head)
        if meant and head.run == self._name:
            raise NameTaken(
                f"{self._name} is the name of a run in this stretch; a replay needs one of its own (--into)"
            )
        return meant

    def _changed(self, record: Record) -> Record:
        if self._reward is None:
            return record
        event = decode(record.partition.topic, record.value)
        assert isinstance(event, RolloutStarted)
        task = event.task.model_copy(update={"reward": self._reward.of(event.task.reward)})
        return replace(record, value=encode(event.model_copy(update={"task": task})))


def _bare(policy: str) -> str:
    try:
        return parse_policy_ref(policy)[0]
    except ValueError:
        return policy
