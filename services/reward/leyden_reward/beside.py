"""Long work beside the event loop: what one agent made long must not keep the others waiting.

One thread does it, so that the loop has at least every second turn of the interpreter however many long
rollouts come at once; short work is done on the spot, where it costs no hand-over.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

LONG_STEPS = 64
"""Reading so many takes some ten milliseconds."""
LONG_BYTES = 256 * 1024
"""The same, of what a rollout holds packed: few steps may be long ones."""

T = TypeVar("T")
_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="long-rollouts")


def is_long(steps: int, nbytes: int = 0) -> bool:
    """Whether work on so much is done in the thread."""
    return steps >= LONG_STEPS or nbytes >= LONG_BYTES


async def beside(work: Callable[[], T], *, long: bool) -> T:
    """What ``work`` gives. If long it runs in the thread: nothing else may use what it uses meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, work) if long else work()
