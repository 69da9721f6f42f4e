"""Reading a log on which queues of tasks flood: every sample is taken once, and none hides another."""

from collections import Counter, deque

from hypothesis import example, given
from hypothesis import strategies as st

from leyden_learner.positions import Positions

Log = list[list[str]]
"""By partition and offset, the queue of each sample."""


class World:
    """A log with a reader of everything and one for each queue that is behind, as the learner has."""

    def __init__(self, log: Log, share: int, start: dict[int, int] | None = None) -> None:
        self.log, self.share = log, share
        self.positions = Positions(start or {})
        self.readers: dict[str, dict[int, int]] = {}
        self.waiting: deque[tuple[str, int, int]] = deque()
        self.taken: list[tuple[str, int, int]] = []

    def room(self, queue: str) -> int:
        return self.share - sum(each[0] == queue for each in self.waiting)

    def take(self, queue: str, partition: int, offset: int) -> None:
        self.taken.append((queue, partition, offset))
        self.waiting.append((queue, partition, offset))
        assert self.room(queue) >= 0

    def scan(self, partition: int, count: int) -> None:
        for _ in range(count):
            offset = self.positions.scan.get(partition, 0)
            if offset == len(self.log[partition]):
                return
            queue = self.log[partition][offset]
            if self.positions.scanned(queue, partition, offset, room=self.room(queue) > 0):
                self.take(queue, partition, offset)
            self.positions.passed(partition, offset)

    def follow(self, partition: int) -> None:
        for queue in self.positions.behind:
            reader = self.readers.setdefault(queue, self.positions.cursor(queue))
            for _ in range(self.room(queue)):
                offset = reader.get(partition, 0)
                if offset == len(self.log[partition]):
                    break
                own = self.log[partition][offset] == queue
                self.positions.followed(queue, partition, offset, own=own)
                reader[partition] = offset + 1
                if own:
                    self.take(queue, partition, offset)
            if self.positions.caught_up(queue):
                del self.readers[queue]

    def low(self) -> dict[int, int]:
        low = self.positions.low()
        for _, partition, offset in self.waiting:
            if partition in low:  # else it is read from its beginning anyway
                low[partition] = min(low[partition], offset)
        return low

    def undone(self) -> set[tuple[str, int, int]]:
        """Everything that was not trained on."""
        trained = set(self.taken) - set(self.waiting)
        return {
            (queue, partition, offset)
            for partition, queues in enumerate(self.log)
            for offset, queue in enumerate(queues)
            if (queue, partition, offset) not in trained
        }


LOGS = st.lists(st.lists(st.sampled_from("abc"), max_size=25), min_size=1, max_size=3)
ACTS = st.lists(st.tuples(st.sampled_from(["scan", "follow", "train"]), st.integers(0, 2), st.integers(1, 6)))


@given(LOGS, ACTS, st.integers(1, 4))
@example([["a"], [], ["a", "a"]], [("scan", 2, 2), ("train", 0, 1), ("follow", 0, 1)], 1)
@example([["b"], [*"aabbbbb"]], [("scan", 1, 6), ("train", 0, 4), ("follow", 1, 1)], 3)
def test_whatever_happens_every_sample_is_taken_once_and_the_watermark_covers_what_is_not(
    log: Log, acts: list[tuple[str, int, int]], share: int
) -> None:
    world = World(log, share)
    for act, number, count in acts:
        match act:
            case "scan":
                world.scan(number % len(log), count)
            case "follow":
                world.follow(number % len(log))
            case _:
                for _ in range(min(count, len(world.waiting))):
                    world.waiting.popleft()
        low = world.low()
        assert all(offset >= low.get(partition, 0) for _, partition, offset in world.undone())
    finish(world)
    everything = {(q, p, o) for p, queues in enumerate(log) for o, q in enumerate(queues)}
    assert len(world.taken) == len(set(world.taken))
    assert set(world.taken) == everything
    assert all(world.positions.left(queue) == 0 for queue in "abc")
    for queue in "abc":
        for partition in range(len(log)):
            mine = [o for q, p, o in world.taken if (q, p) == (queue, partition)]
            assert mine == sorted(mine)


def finish(world: World) -> None:
    """Read and train until there is nothing left; by then every queue has gone back to the scan."""
    for _ in range(200):
        for partition in range(len(world.log)):
            world.scan(partition, 10)
            world.follow(partition)
        world.waiting.clear()
    assert world.positions.behind == []


def test_a_flood_is_left_on_the_log_and_a_small_queue_behind_it_is_seen() -> None:
    world = World([["flood"] * 50 + ["small"]], share=4)
    world.scan(0, 51)
    assert Counter(queue for queue, *_ in world.taken) == {"flood": 4, "small": 1}
    assert world.positions.left("flood") == 46
    assert world.low() == {0: 0}
    world.waiting.clear()
    assert world.low() == {0: 4}
    world.follow(0)
    assert world.positions.left("flood") == 42


@given(LOGS, st.integers(1, 4), st.integers(0, 60))
def test_after_a_crash_reading_from_the_watermark_finds_all_that_was_not_trained(
    log: Log, share: int, trained: int
) -> None:
    world = World(log, share)
    for partition in range(len(log)):
        world.scan(partition, 100)
        world.follow(partition)
        for _ in range(min(trained, len(world.waiting))):
            world.waiting.popleft()
    again = World(log, share, world.low())
    finish(again)
    assert world.undone() <= set(again.taken)


def test_a_log_made_anew_is_read_from_its_beginning() -> None:
    positions = Positions({})
    for offset in range(3):
        assert positions.scanned("a", 0, offset, room=offset == 0) == (offset == 0)
        positions.passed(0, offset)
    for offset in range(1, 5):
        positions.followed("a", 0, offset, own=True)
    assert positions.caught_up("a")
    positions.begun_anew(0, 0)
    assert positions.scanned("a", 0, 0, room=True)
