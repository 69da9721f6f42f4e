"""What this machine's processor is good at."""

from itertools import chain
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""x86 and ARM instructions that multiply bf16; without one it is slower than fp32."""


def multiplies_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether bf16 products are fast here; False where that cannot be told."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    fields = (line.partition(":") for line in lines)
    flags = (rest.split() for name, _, rest in fields if name.strip() in ("flags", "Features"))
    return not _BF16.isdisjoint(chain.from_iterable(flags))
