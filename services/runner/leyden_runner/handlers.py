"""From the log into the runner: tasks become assignments, assignments become rollouts in hand."""

from leyden_platform.messaging import OffsetTracker, Publisher, Record, Rejected, Unavailable
from leyden_runner import metrics
from leyden_runner.intake import Known, check, check_size, identified, unknown_policy
from leyden_runner.policies import Policies
from leyden_runner.rollouts import Job, Rollouts
from leyden_runner.settings import rollout_topic
from leyden_schemas import BASE_QUEUE, MalformedMessage, RolloutAssigned, Task, Topics


class TaskIntake:
    """Validates a task and fans it out; the fan-out is acknowledged before the task's offset passes."""

    def __init__(self, known: Known, policies: Policies, publisher: Publisher, max_task_bytes: int) -> None:
        self._known, self._policies, self._publisher = known, policies, publisher
        self._max_task_bytes = max_task_bytes

    async def handle(self, record: Record) -> None:
        """Raises ``MalformedMessage`` or ``Rejected`` for the dead letters, ``Unavailable`` to try again."""
        queue = record.partition.topic.removeprefix(Topics.TASKS.name).removeprefix(".") or BASE_QUEUE
        try:
            assigned = RolloutAssigned.fan_out(await self._accept(record), queue)
            await self._publisher.publish(*assigned, topic=rollout_topic(queue).name)
        except MalformedMessage:
            metrics.TASKS_REJECTED.labels("malformed").inc()
            raise
        except Rejected as error:
            metrics.TASKS_REJECTED.labels(error.reason).inc()
            raise
        metrics.TASKS_ACCEPTED.labels(queue).inc()
        metrics.ROLLOUTS_ASSIGNED.inc(len(assigned))

    async def _accept(self, record: Record) -> Task:
        check_size(len(record.value or b""), self._max_task_bytes)
        task: Task = record.message()
        check(task, self._known)
        if not await self._policies.known(task.policy):
            raise unknown_policy(task.policy, self._policies.table.names())
        return identified(task, record.where, record.timestamp_ms)


class RolloutProcessor:
    """One partition of assignments; an offset stays open until the ledger says that its rollout is over."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts
        self._offsets = OffsetTracker()
        self._jobs: dict[int, Job] = {}

    async def handle(self, record: Record) -> None:
        """Take the assignment when a slot is free; what is in hand already is not taken twice.

        Raises ``Unavailable`` once the runner is stopping.
        """
        assigned: RolloutAssigned = record.message()
        offset = record.offset
        if offset in self._jobs:
            return
        job = Job(assigned, done=lambda: self._close(offset, job))
        self._offsets.begin(offset)
        self._jobs[offset] = job
        try:
            await self._rollouts.take(job)
        except Unavailable:
            self._close(offset, job)
            raise

    def _close(self, offset: int, job: Job) -> None:
        if self._jobs.get(offset) is job:
            del self._jobs[offset]
            self._offsets.done(offset)

    async def tick(self) -> None:
        """Nothing here depends on time; leases are renewed for the whole runner at once."""

    def watermark(self) -> int | None:
        """The lowest offset whose rollout is not over."""
        return self._offsets.low()

    async def drain(self) -> None:
        """Nothing to wait for: the runner's rollouts stop before its consumers do."""

    async def close(self) -> None:
        """What runs may end here, its lease holds; what waits is left to the partition's next owner."""
        for job in self._jobs.values():
            job.dropped = True
