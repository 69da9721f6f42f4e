"""What runs in the sandbox: this file alone, by path, with nothing of ours to import.

Reads one JSON object from standard input (``code``, ``pieces``, limits, the text of ``plans.py`` and of
``running.py``), looks at the tests, isolates itself as far as the kernel lets it, then gives every piece of
tests a process of its own, and writes one JSON object: whether it is isolated, and what each piece came to. A
result counts only with a word that is drawn anew each time; code that digs through the memory of its own
process can find it.
"""

import builtins
import contextlib
import ctypes
import json
import math
import os
import resource
import secrets
import select
import signal
import sys
import time
from io import FileIO
from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
NOBODY = 65534
MB = 1024 * 1024
LEAST = 0.05
"""The share of the computing time below which no further piece is begun."""
STARVED, LAST = 0.5, 0.25
"""Who computed for over half of its computing time, and in the last quarter by the clock not less than half
as much as before, waited for our processors when the clock ended it; who slept in the end did not."""

Job = dict[str, Any]


def main() -> None:
    """Isolate, run, report."""
    job = json.load(sys.stdin)
    report = planned(job)
    job["runner"] = loaded(job["running"])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    isolated = isolate(libc)
    report["isolated"] = isolated
    if report["fault"] is None and (isolated or not job["require_isolation"]):
        job["isolated"] = isolated
        report["pieces"] = in_namespace(job) if isolated else run_all(job)
    sys.stdout.write(json.dumps(report))
    sys.stdout.flush()
    os._exit(0)


def planned(job: Job) -> Job:
    """Note of what kind the pieces are; the report so far, with the fault of one that tests nothing."""
    plans = loaded(job["plans"])
    report: Job = {"fault": None, "pieces": []}
    try:
        job["kinds"] = plans["kinds_of"](job["pieces"], job["entry_point"])
    except plans["Fault"] as fault:
        report["fault"] = str(fault)
    return report


def isolate(libc: ctypes.CDLL) -> bool:
    """Leave the network, and the sight of other processes, behind; False where the kernel does not grant it.

    As root by the right of root, which is then given up; otherwise through a user namespace.
    """
    spaces = NEWNET | NEWIPC | NEWUTS | NEWPID
    if os.geteuid() == 0:
        os.chown(".", NOBODY, NOBODY)
        refused = libc.unshare(spaces)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    else:
        refused = libc.unshare(spaces | NEWUSER)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user clears it
    return bool(refused == 0)


def in_namespace(job: Job) -> list[Any]:
    """Run as the first process of the new namespace: when it ends, the kernel ends all the others."""
    source, sink = os.pipe()
    if (child := os.fork()) == 0:
        os.close(source)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with os.fdopen(sink, "w") as pipe:
            json.dump(run_all(job), pipe)
        os._exit(0)
    os.close(sink)
    with os.fdopen(source) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    pieces: list[Any] = json.loads(text) if text else []
    return pieces


def run_all(job: Job) -> list[Any]:
    """What each piece came to, one after the other; they share the computing time."""
    deadline, results = time.monotonic() + job["wall_s"], []
    for piece, kind in zip(job["pieces"], job["kinds"], strict=True):
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        left_s = job["cpu_s"] - used.ru_utime - used.ru_stime
        if left_s <= LEAST * job["cpu_s"] or time.monotonic() >= deadline:
            results.append({"problem": "the time was used up before"})
            continue
        results.append(run_piece(job, piece, kind, left_s, deadline))
        if job["stop_early"] and not passed(results[-1]):
            break
    return results


def passed(result: Job) -> bool:
    """Whether every case of a piece did."""
    return "cases" in result and all(problem is None for _, problem in result["cases"])


def run_piece(job: Job, piece: str, kind: str, cpu_s: float, deadline: float) -> Job:
    """Run one piece in a process of its own, killed with all its children at the end of its time."""
    word, (source, sink) = secrets.token_hex(16), os.pipe()
    if (child := os.fork()) == 0:
        os.setsid()
        os.dup2(sink, 3)
        os.closerange(4, 4096)
        limit(job, cpu_s)
        dumps, write = json.dumps, os.write  # as they are before the code runs
        try:
            cases = job["runner"]["test"](job["code"], piece, kind, job["entry_point"])
            write(3, dumps({"word": word, "cases": cases}).encode() + b"\n")
        finally:
            os._exit(0)
    os.close(sink)
    with os.fdopen(source, "rb", buffering=0) as pipe:
        text, late, starved = watched(pipe, child, cpu_s, deadline)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return {"starved": True} if starved else told(text, word, late, status)


def watched(pipe: FileIO, child: int, cpu_s: float, deadline: float) -> tuple[bytes, bool, bool]:
    """What the child writes, whether its time passed before that, and whether that is our fault."""
    text, late = read(pipe, deadline - LAST * (deadline - time.monotonic()))
    if not late:
        return text, False, False
    before_s = computed_s(child)
    more, late = read(pipe, deadline)
    in_all_s = computed_s(child)
    busy = in_all_s > STARVED * cpu_s and in_all_s - before_s > STARVED * LAST * in_all_s
    return text + more, late, late and busy


def computed_s(child: int) -> float:
    """The computing time of a process that was not waited for yet, by its clock in the kernel."""
    return time.clock_gettime((~child << 3) | 2)


def told(text: bytes, word: str, late: bool, status: int) -> Job:
    """The cases, if the child got to the end of its tests; else why not."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = json.loads(text)
        if secrets.compare_digest(found["word"], word):
            return {"cases": found["cases"]}
    if late:
        return {"problem": "it did not end"}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number in (signal.SIGXCPU, signal.SIGKILL):
            return {"problem": "it used up its computing time"}
        return {"problem": f"it was ended by signal {signal.Signals(number).name}"}
    return {"problem": "it ended its process before the end of the tests"}


def limit(job: Job, cpu_s: float) -> None:
    """Bounds on time, memory, files and processes of the child."""
    seconds = max(1, math.ceil(cpu_s))
    bounds = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: job["memory_mb"] * MB,
        resource.RLIMIT_FSIZE: 16 * MB,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if job["isolated"]:
        bounds[resource.RLIMIT_NPROC] = 256
    for kind, bound in bounds.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (bound, bound + 1 if kind == resource.RLIMIT_CPU else bound))
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)


def read(pipe: FileIO, deadline: float) -> tuple[bytes, bool]:
    """The line that is written until the end or the deadline, and whether that passed."""
    chunks: list[bytes] = []
    size = 0
    while (left := deadline - time.monotonic()) > 0 and size < MB:
        ready, _, _ = select.select([pipe], [], [], left)
        chunk = pipe.read(65536) or b"" if ready else b""
        chunks.append(chunk)
        size += len(chunk)
        if ready and (not chunk or chunk.endswith(b"\n")):
            return b"".join(chunks), False
    return b"".join(chunks), True


def loaded(text: str) -> dict[str, Any]:
    """What a program defines, in a module that agents' code has no name for, with builtins of its own."""
    space: dict[str, Any] = {"__name__": "sandbox", "__builtins__": dict(vars(builtins))}
    exec(compile(text, "/sandbox", "exec"), space)
    return space


if __name__ == "__main__":
    main()
