"""What is kept of a rollout until it closes: its newest attempt's steps and signals, and the ids seen.

When a rollout opens and closes, and which events count, is decided in ``assembly``; how its content is held
is decided here alone.
"""

from uuid import UUID

from leyden_platform.transcript import TEXTS, Transcript
from leyden_schemas import (
    CompletionRecorded,
    CompletionStatus,
    EventMessage,
    RewardTerm,
    RolloutFinished,
    RolloutStarted,
    SignalRecorded,
    Step,
)


class OpenRollout:
    """The steps of one attempt in the order of the log, and the signals about them.

    Everything long is held packed, and read again when the rollout closes.
    """

    __slots__ = ("_said", "_seen", "_signals", "_start", "_terms", "_transcript")

    def __init__(self, start: RolloutStarted) -> None:
        self._start = TEXTS.squeeze(start.to_json())
        self._seen = {start.event_id.bytes}
        self._said: dict[UUID, SignalRecorded] = {}
        self._transcript = Transcript()
        self._terms: dict[UUID, list[RewardTerm]] = {}
        self._signals: list[RewardTerm] = []

    @property
    def start(self) -> RolloutStarted:
        """The event that opened the rollout, read again every time."""
        return RolloutStarted.model_validate_json(TEXTS.expand(self._start))

    def is_new(self, event: EventMessage) -> bool:
        """Whether neither the event nor its completion was seen before; the event is from now on."""
        new = event.event_id.bytes not in self._seen
        self._seen.add(event.event_id.bytes)
        if isinstance(event, CompletionRecorded):
            return new and not self._had(event.completion_id)
        if new and isinstance(event, SignalRecorded):
            self._said[event.event_id] = event
        return new

    def _had(self, completion_id: UUID) -> bool:
        """Whether a completion was seen, in this attempt or an earlier one."""
        return completion_id in self._transcript or completion_id.bytes in self._seen

    def contradicts(self, event: EventMessage) -> bool:
        """Whether an event that is not new says something else than what was seen under its ids."""
        match event:
            case CompletionRecorded():
                place = self._transcript.place(event.completion_id)
                return place is None or _answer(self._transcript.step(place)) != _answer(event)
            case SignalRecorded():
                first = self._said.get(event.event_id)
                return first is None or _meaning(first) != _meaning(event)
            case RolloutStarted():
                return event.event_id == self.start.event_id and self.starts_otherwise(event)
            case RolloutFinished():
                return False

    def starts_otherwise(self, event: RolloutStarted) -> bool:
        """Whether a start is of another task or place in a group than the one that opened the rollout."""
        start = self.start
        return (event.task, event.group_id, event.index) != (start.task, start.group_id, start.index)

    def has(self, completion_id: UUID) -> bool:
        """Whether there is such a step."""
        return completion_id in self._transcript

    def restart(self) -> int:
        """Drop the steps and signals, because another attempt begins; return how many they were."""
        dropped = len(self._transcript) + len(self._signals)
        self._seen.update(self._transcript.completion_ids())
        self._transcript, self._terms, self._signals = Transcript(), {}, []
        return dropped

    def add_completion(self, event: CompletionRecorded) -> bool:
        """Keep a step. False when its prompt leans on what is not known; the step then says so."""
        return self._transcript.append(_step(event))

    def add_signal(self, term: RewardTerm, completion_id: UUID | None) -> bool:
        """Keep a signal about a step, or about the rollout; False when there is no such step."""
        if completion_id is None:
            self._signals.append(term)
        elif completion_id in self._transcript:
            self._terms.setdefault(completion_id, []).append(term)
        else:
            return False
        return True

    def steps(self) -> list[Step]:
        """The steps, each with the signals about it; they are put together when they are looked at."""
        steps = self._transcript.steps()
        for completion_id, terms in self._terms.items():
            place = self._transcript.place(completion_id)
            assert place is not None
            steps[place] = steps[place].model_copy(update={"terms": list(terms)})
        return steps

    def signals(self) -> tuple[RewardTerm, ...]:
        """The signals about the rollout."""
        return tuple(self._signals)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, roughly."""
        return 1_000 + len(self._start) + self._transcript.nbytes + 100 * len(self._seen)


def _answer(step: Step | CompletionRecorded) -> tuple[object, ...]:
    """What was sampled, by whom; prompts are left out because one of them may be stored in part."""
    return step.policy, step.version, step.token_ids, step.logprobs, step.response


def _meaning(signal: SignalRecorded) -> tuple[object, ...]:
    return signal.name, signal.value, signal.text, signal.completion_id


def _step(event: CompletionRecorded) -> Step:
    """Not validated again: every field was, as part of the event, and token lists are long."""
    undelivered = None if event.status is CompletionStatus.OK else event.status.value
    return Step.model_construct(
        tenant=event.tenant,
        run=event.run,
        completion_id=event.completion_id,
        agent=event.agent,
        policy=event.policy,
        version=event.version,
        prompt_token_ids=event.prompt_token_ids,
        token_ids=event.token_ids,
        logprobs=event.logprobs,
        finish_reason=event.finish_reason,
        untrainable=event.untrainable or undelivered,
        status=event.status,
        timings=event.timings,
        request=event.request,
        response=event.response,
        terms=[],
        protocol=event.protocol,
        base=event.base,
    )
