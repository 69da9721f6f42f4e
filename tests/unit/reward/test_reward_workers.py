"""User reward functions in processes of their own: whatever one does, the others are not disturbed."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from leyden_platform.settings import CatalogueSettings
from leyden_platform.testing.rollouts import make_task, make_trajectory
from leyden_reward.rewards.verdict import Graded, Reason, Refused, Verdict
from leyden_reward.rewards.workers import MOST_FOLD, CatalogueError, RewardWorkers
from leyden_schemas import RewardSpec, RewardTerm

USER_CODE = """
import asyncio, math, os, sys, time

def right(trajectory):
    assert trajectory.final == []
    return float(trajectory.output == trajectory.task.reference)

async def later(trajectory):
    await asyncio.sleep(0)
    return {"right": 1.0, "process": float(os.getpid())}

def raises(trajectory):
    raise KeyError("no such column")

def hangs(trajectory):
    while True:
        time.sleep(1)

def interrupts(trajectory):
    raise KeyboardInterrupt

def not_a_number(trajectory):
    return math.nan

def leaves(trajectory):
    sys.exit(3)

def dies(trajectory):
    os._exit(7)

def dies_in_peace(trajectory):
    os._exit(0)

def mumbles(trajectory):
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError
    raise Odd

def of_its_own_class(trajectory):
    from leyden import RewardTerm
    class Term(RewardTerm):
        pass
    return Term(name="style", value=0.5)

def child(trajectory):
    if os.fork() == 0:
        os._exit(0)
    return float(os.wait()[1])

def text(trajectory):
    return "very good"

def process(trajectory):
    return float(os.getpid())

def crashes(trajectory):
    import ctypes
    ctypes.string_at(0)

KEPT = []

def keeps(trajectory):
    KEPT.append(bytearray(300 * 2**20))
    return float(len(KEPT))

def hoards(trajectory):
    return float(len(bytearray(10**10)))

def sleeps(trajectory):
    time.sleep(3)
    return 1.0

def sleeps_in(trajectory):
    time.sleep(2)
    return float(os.getpid())

def forks(trajectory):
    print("before")
    os.fork()
    return 1.0

def talks(trajectory):
    print("to whom it", "may concern")
    os.write(1, b"straight out\\n")
    sys.stderr.write("an error\\n")
    if trajectory.output == "4":
        raise ValueError("enough")
    return 1.0

def mutes(trajectory):
    if sys.stdout:
        sys.stdout.close()
        os.close(1)
        sys.stdout = None
    return 1.0

def feeds_back(trajectory):
    from leyden import RewardTerm
    return RewardTerm(name="style", value=0.5, weight=2.0, feedback="too long")
"""
FUNCTIONS = re.findall(r"def (\w+)", USER_CODE)

TRAJECTORY = make_trajectory(task=make_task(reference="4"), output="4", final=[])


@pytest.fixture
def catalogue(tmp_path: Path) -> CatalogueSettings:
    """A folder of user code with well- and ill-behaved rewards."""
    (tmp_path / "user_rewards.py").write_text(USER_CODE)
    return CatalogueSettings(
        path=[str(tmp_path)], rewards={name: f"user_rewards:{name}" for name in FUNCTIONS}
    )


@asynccontextmanager
async def running(
    catalogue: CatalogueSettings, *, count: int = 1, deadline_s: float = 20.0, startup_s: float = 60.0
) -> AsyncIterator[RewardWorkers]:
    """Workers that are stopped afterwards."""
    workers = RewardWorkers(catalogue, count=count, deadline_s=deadline_s, startup_s=startup_s)
    await workers.start()
    try:
        yield workers
    finally:
        await workers.stop()


def reason(verdict: Verdict) -> Reason:
    """Why it was refused."""
    assert isinstance(verdict, Refused), verdict
    return verdict.reason


async def test_functions_are_judged_by_what_they_return_or_raise(catalogue: CatalogueSettings) -> None:
    async with running(catalogue) as workers:
        right = await workers.grade("right", TRAJECTORY)
        later = await workers.grade("later", TRAJECTORY)
        raised = await workers.grade("raises", TRAJECTORY)
        assert isinstance(right, Graded)
        assert right.terms[0].value == 1.0
        assert right.by.startswith("user_rewards:right#")
        assert isinstance(later, Graded)
        assert [term.name for term in later.terms] == ["right", "process"]
        assert isinstance(raised, Refused)
        assert "KeyError: 'no such column' (user_rewards.py:" in raised.text
        assert reason(raised) is Reason.RAISED
        assert reason(await workers.grade("interrupts", TRAJECTORY)) is Reason.RAISED
        assert reason(await workers.grade("not_a_number", TRAJECTORY)) is Reason.NOT_FINITE
        assert reason(await workers.grade("text", TRAJECTORY)) is Reason.WRONG_TYPE
        assert reason(await workers.grade("leaves", TRAJECTORY)) is Reason.EXITED


async def test_a_process_that_ends_as_if_all_were_well_is_noticed_at_once(
    catalogue: CatalogueSettings,
) -> None:
    async with running(catalogue, deadline_s=300) as workers, asyncio.timeout(60):
        assert reason(await workers.grade("dies_in_peace", TRAJECTORY)) is Reason.EXITED
        ended = await workers.grade("child", TRAJECTORY)
        assert isinstance(ended, Graded)
        assert ended.terms[0].value == 0.0


async def test_an_error_without_words_and_a_term_of_the_users_class_get_out(
    catalogue: CatalogueSettings,
) -> None:
    async with running(catalogue) as workers:
        mumbled = await workers.grade("mumbles", TRAJECTORY)
        assert isinstance(mumbled, Refused)
        assert mumbled.reason is Reason.RAISED
        assert "Odd: (what it says cannot be shown: RuntimeError) (user_rewards.py:" in mumbled.text
        own = await workers.grade("of_its_own_class", TRAJECTORY)
        assert isinstance(own, Graded)
        assert type(own.terms[0]) is RewardTerm


async def test_memory_is_bounded_and_a_crash_is_told(catalogue: CatalogueSettings) -> None:
    workers = RewardWorkers(catalogue, count=1, deadline_s=20.0, memory_mb=1024)
    await workers.start()
    try:
        hoarded = await workers.grade("hoards", TRAJECTORY)
        assert isinstance(hoarded, Refused)
        assert "MemoryError" in hoarded.text
        assert reason(await workers.grade("crashes", TRAJECTORY)) is Reason.EXITED
        assert isinstance(await workers.grade("right", TRAJECTORY), Graded)
    finally:
        await workers.stop()


async def test_what_a_function_keeps_from_call_to_call_is_not_missing_for_ever(
    catalogue: CatalogueSettings,
) -> None:
    workers = RewardWorkers(catalogue, count=1, memory_mb=800)
    await workers.start()
    try:
        verdicts = [await workers.grade("keeps", TRAJECTORY) for _ in range(8)]
    finally:
        await workers.stop()
    kept = [verdict.terms[0].value if isinstance(verdict, Graded) else verdict.reason for verdict in verdicts]
    assert kept[:2] == [1.0, 2.0]
    lost = kept.index(Reason.RAISED)
    assert kept[lost + 1 : lost + 3] == [1.0, 2.0]


async def test_what_is_printed_goes_to_the_verdict_or_the_log_and_not_to_our_output(
    catalogue: CatalogueSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(catalogue) as workers:
        with capture_logs() as logs:
            told = await workers.grade("talks", TRAJECTORY)
            quiet = await workers.grade("talks", TRAJECTORY.model_copy(update={"output": "5"}))
            silent = await workers.grade("right", TRAJECTORY)
            for _ in range(2):
                assert isinstance(await workers.grade("mutes", TRAJECTORY), Graded)
    printed = "to whom it may concern\nstraight out\nan error"
    assert isinstance(told, Refused)
    assert told.text.endswith(f"; it printed: {printed}")
    assert isinstance(quiet, Graded)
    assert isinstance(silent, Graded)
    lines = [line for line in logs if line["event"] == "reward_printed"]
    assert [(line["reward"], line["text"]) for line in lines] == [("talks", printed)]
    output = capfd.readouterr()
    assert "concern" not in output.out + output.err


async def test_slow_calls_do_not_hold_up_a_quick_one(catalogue: CatalogueSettings) -> None:
    async with running(catalogue, count=1) as workers:
        slow = [asyncio.create_task(workers.grade("sleeps", TRAJECTORY)) for _ in range(2)]
        await asyncio.sleep(0)
        quick = await workers.grade("right", TRAJECTORY)
        assert isinstance(quick, Graded)
        assert not all(task.done() for task in slow)
        assert all(isinstance(judged, Graded) for judged in await asyncio.gather(*slow))
        async with asyncio.timeout(20):
            while len(workers._pools) > 1 or workers._aside:  # noqa: ASYNC110 - ends are told to nobody
                await asyncio.sleep(0.01)
        assert isinstance(await workers.grade("right", TRAJECTORY), Graded)


async def test_who_stands_in_stays_while_calls_wait(catalogue: CatalogueSettings) -> None:
    async with running(catalogue, count=1) as workers:
        judged = await asyncio.gather(*(workers.grade("sleeps_in", TRAJECTORY) for _ in range(8)))
    processes = {one.terms[0].value for one in judged if isinstance(one, Graded)}
    assert 2 <= len(processes) <= MOST_FOLD


async def test_a_process_that_user_code_forked_gives_no_answer(catalogue: CatalogueSettings) -> None:
    async with running(catalogue) as workers:
        with capture_logs() as logs:
            for _ in range(3):
                assert isinstance(await workers.grade("forks", TRAJECTORY), Graded)
                assert isinstance(await workers.grade("right", TRAJECTORY), Graded)
    lines = [line for line in logs if line["event"] == "reward_printed"]
    assert [(line["reward"], line["text"]) for line in lines] == [("forks", "before")] * 3


async def test_a_term_with_feedback_is_a_reward(catalogue: CatalogueSettings) -> None:
    async with running(catalogue) as workers:
        graded = await workers.grade("feeds_back", TRAJECTORY)
    assert isinstance(graded, Graded)
    assert [(term.name, term.weighted, term.feedback) for term in graded.terms] == [
        ("style", 1.0, "too long")
    ]


DECORATED = """
import time
import leyden

@leyden.reward
def exact(trajectory: leyden.Trajectory) -> float:
    return float(trajectory.output == trajectory.task.reference)

@leyden.reward(name="patient", deadline_s=1.0)
async def waits(trajectory: leyden.Trajectory) -> float:
    time.sleep(30)
    return 1.0
"""


async def test_decorated_functions_are_found_by_name_with_deadlines_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "decorated_rewards.py").write_text(DECORATED)
    found = {"exact": "decorated_rewards", "patient": "decorated_rewards", "alias": "decorated_rewards:exact"}
    catalogue = CatalogueSettings(path=[str(tmp_path)], rewards=found)
    async with running(catalogue) as workers:
        assert isinstance(await workers.grade("exact", TRAJECTORY), Graded)
        assert isinstance(await workers.grade("alias", TRAJECTORY), Graded)
        late = await workers.grade("patient", TRAJECTORY)
        assert isinstance(late, Refused)
        assert late.text == "decorated_rewards ran over 1 s and was killed"


async def test_a_name_that_no_function_is_decorated_with_fails_the_start(tmp_path: Path) -> None:
    (tmp_path / "decorated_otherwise.py").write_text(DECORATED)
    catalogue = CatalogueSettings(path=[str(tmp_path)], rewards={"waits": "decorated_otherwise"})
    with pytest.raises(CatalogueError, match=r"under the name 'waits'; there are exact, patient"):
        async with running(catalogue):
            pass


async def test_a_process_killed_between_calls_is_replaced(catalogue: CatalogueSettings) -> None:
    async with running(catalogue) as workers:
        verdict = await workers.grade("process", TRAJECTORY)
        assert isinstance(verdict, Graded)
        pid = int(verdict.terms[0].value)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(await_condition, lambda: not alive(pid))
        async with asyncio.timeout(20):
            while not isinstance(await workers.grade("process", TRAJECTORY), Graded):
                pass


async def test_stopping_gives_no_verdict_on_calls_under_way(catalogue: CatalogueSettings) -> None:
    workers = RewardWorkers(catalogue, count=1)
    await workers.start()
    calls = [asyncio.create_task(workers.grade("hangs", TRAJECTORY)) for _ in range(2)]
    await asyncio.wait(calls, timeout=0.5)
    await workers.stop()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2


async def test_a_process_that_dies_is_replaced(catalogue: CatalogueSettings) -> None:
    async with running(catalogue) as workers:
        assert reason(await workers.grade("dies", TRAJECTORY)) is Reason.EXITED
        assert isinstance(await workers.grade("right", TRAJECTORY), Graded)


async def test_a_dead_process_is_joined_once_and_no_call_waits_for_it(
    catalogue: CatalogueSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = RewardWorkers(catalogue, count=1)
    await workers.start()
    (pool,) = workers._pools
    pool.stop()  # type: ignore[no-untyped-call]
    go_on, join, joins = threading.Event(), pool.join, []

    def held_up() -> None:
        joins.append(pool)
        go_on.wait(20.0)
        join()

    monkeypatch.setattr(pool, "join", held_up)
    async with asyncio.timeout(20.0):
        given_up = asyncio.create_task(workers.grade("right", TRAJECTORY))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert isinstance(await workers.grade("right", TRAJECTORY), Graded)
        stopping = asyncio.create_task(workers.stop())
        go_on.set()
        await stopping
    assert joins == [pool]


async def test_a_call_that_hangs_is_killed_and_does_not_delay_the_others(
    catalogue: CatalogueSettings,
) -> None:
    async with running(catalogue, count=2, deadline_s=2.0) as workers:
        hanging = asyncio.create_task(workers.grade("hangs", TRAJECTORY))
        for _ in range(5):
            assert isinstance(await workers.grade("right", TRAJECTORY), Graded)
        assert not hanging.done()
        assert reason(await hanging) is Reason.TIMED_OUT
        both = await asyncio.gather(*(workers.grade("right", TRAJECTORY) for _ in range(4)))
        assert all(isinstance(verdict, Graded) for verdict in both)


async def test_importing_what_does_not_exist_fails_the_start_and_says_what(tmp_path: Path) -> None:
    catalogue = CatalogueSettings(path=[str(tmp_path)], rewards={"lost": "nowhere:score", "no": "os:linesep"})
    with pytest.raises(CatalogueError, match=r"lost: nowhere:score: ModuleNotFoundError.*no: os:linesep"):
        async with running(catalogue):
            pass


async def test_an_import_that_ends_the_process_fails_the_start_in_time(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os; os._exit(1)")
    catalogue = CatalogueSettings(path=[str(tmp_path)], rewards={"deadly": "deadly:score"})
    with pytest.raises(CatalogueError, match="deadly:score took over 3 s or ends the process"):
        async with running(catalogue, startup_s=3.0):
            pass


async def test_without_user_functions_a_process_starts_when_the_library_needs_one() -> None:
    before = children()
    async with running(CatalogueSettings(path=[], rewards={})) as workers:
        assert workers.not_ready() is None
        assert "anything" not in workers
        assert "regex" not in workers
        assert children() == before
        task = make_task(reward=RewardSpec(name="regex", params={"pattern": "4"}))
        assert isinstance(await workers.grade("regex", make_trajectory(task=task)), Graded)


@pytest.mark.parametrize(
    ("query", "worth"),
    [("SELECT 1 + 1", 1.0), ("SELECT instr(zeroblob(5000000), zeroblob(2500000) || x'01')", 0.0)],
)
async def test_what_a_query_does_to_its_process_is_worth_nothing_and_excludes_nobody(
    query: str, worth: float
) -> None:
    spec = RewardSpec(name="sql", params={"setup": "CREATE TABLE t(a)", "cpu_s": 0.3})
    trajectory = make_trajectory(task=make_task(reward=spec, reference="SELECT 2"), output=query)
    async with running(CatalogueSettings(path=[], rewards={})) as workers:
        graded = await workers.grade("sql", trajectory)
        unusable = trajectory.model_copy(update={"task": make_task(reward=spec, reference="SELEC")})
        refused = await workers.grade("sql", unusable)
    assert isinstance(graded, Graded), graded
    assert graded.terms[0].value == worth
    assert reason(refused) is Reason.PARAMS


def children() -> set[int]:
    """The processes below this one."""
    command = ["ps", "--ppid", str(os.getpid()), "-o", "pid="]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        return set(map(int, listing.stdout.read().split())) - {listing.pid}


SERVICE = """
import asyncio, sys
from leyden_platform.settings import CatalogueSettings
from leyden_platform.testing.rollouts import make_trajectory
from leyden_reward.rewards.workers import RewardWorkers

async def main():
    rewards = {name: f"user_rewards:{name}" for name in ("process", "hangs")}
    catalogue = CatalogueSettings(path=[sys.argv[1]], rewards=rewards)
    workers = RewardWorkers(catalogue, count=1)
    await workers.start()
    print(int((await workers.grade("process", make_trajectory())).terms[0].value), flush=True)
    await workers.grade("hangs", make_trajectory())

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_workers_do_not_outlive_a_killed_service(catalogue: CatalogueSettings, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    service = subprocess.Popen(
        [sys.executable, str(tmp_path / "service.py"), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert service.stdout is not None
    with service.stdout:
        pid = int(service.stdout.readline())
    service.send_signal(signal.SIGKILL)
    service.wait(timeout=10)
    await_condition(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def await_condition(holds: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Poll until it holds; fail after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "the condition did not come about in time"
        time.sleep(0.02)
