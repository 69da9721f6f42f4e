"""What is kept of a rollout until it closes: its newest attempt's steps and signals, and the ids seen.

When a rollout opens and closes, and which events count, is decided in ``assembly``; how its content is held
is decided here alone.
"""

from uuid import UUID

from leyden_schemas import (
    CompletionRecorded,
    CompletionStatus,
    EventMessage,
    JsonObject,
    RewardTerm,
    RolloutFinished,
    RolloutStarted,
    SignalRecorded,
    Step,
    UnknownBase,
    expand,
)

BASE_UNKNOWN = "base_unknown"
"""Why a step cannot be trained on whose prompt leans on a completion that this attempt does not have."""


class OpenRollout:
    """The steps of one attempt in the order of the log, and the signals about them.

    ``start`` is the event that opened the rollout.
    """

    def __init__(self, start: RolloutStarted) -> None:
        self.start = start
        self._seen = {start.event_id}
        self._said: dict[UUID, SignalRecorded] = {}
        self._steps: dict[UUID, Step] = {}
        self._signals: list[RewardTerm] = []

    def is_new(self, event: EventMessage) -> bool:
        """Whether neither the event nor its completion was seen before; they are from now on."""
        ids = {event.event_id}
        if isinstance(event, CompletionRecorded):
            ids.add(event.completion_id)
        new = self._seen.isdisjoint(ids)
        if new and isinstance(event, SignalRecorded):
            self._said[event.event_id] = event
        self._seen |= ids
        return new

    def contradicts(self, event: EventMessage) -> bool:
        """Whether an event that is not new says something else than what was seen under its ids."""
        match event:
            case CompletionRecorded():
                step = self._steps.get(event.completion_id)
                return step is None or _answer(step) != _answer(event)
            case SignalRecorded():
                first = self._said.get(event.event_id)
                return first is None or _meaning(first) != _meaning(event)
            case RolloutStarted():
                return event.event_id == self.start.event_id and event.task != self.start.task
            case RolloutFinished():
                return False

    def has(self, completion_id: UUID) -> bool:
        """Whether there is such a step."""
        return completion_id in self._steps

    def restart(self) -> int:
        """Drop the steps and signals, because another attempt begins; return how many they were."""
        dropped = len(self._steps) + len(self._signals)
        self._steps, self._signals = {}, []
        return dropped

    def add_completion(self, event: CompletionRecorded) -> bool:
        """Keep a step. False when its prompt leans on what is not known; the step then says so."""
        try:
            self._steps[event.completion_id] = _step(expand(event, self._whole))
        except UnknownBase:
            self._steps[event.completion_id] = _step(_without_prompt(event))
            return False
        return True

    def add_signal(self, term: RewardTerm, completion_id: UUID | None) -> bool:
        """Keep a signal about a step, or about the rollout; False when there is no such step."""
        if completion_id is None:
            self._signals.append(term)
            return True
        step = self._steps.get(completion_id)
        if step is None:
            return False
        self._steps[completion_id] = step.model_copy(update={"terms": [*step.terms, term]})
        return True

    def steps(self) -> list[Step]:
        """The steps, whole, each with the signals about it."""
        return list(self._steps.values())

    def signals(self) -> tuple[RewardTerm, ...]:
        """The signals about the rollout."""
        return tuple(self._signals)

    def _whole(self, completion_id: UUID) -> Step | None:
        """A step of this attempt, unless its own prompt is not known."""
        step = self._steps.get(completion_id)
        return None if step is None or step.untrainable == BASE_UNKNOWN else step


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
    )


def _without_prompt(event: CompletionRecorded) -> CompletionRecorded:
    """Neither request nor response either: rules would blame the agent for what is missing in them."""
    missing: JsonObject = {"prompt_token_ids": [], "request": {}, "response": None}
    return event.model_copy(update=missing | {"base": None, "untrainable": BASE_UNKNOWN})
