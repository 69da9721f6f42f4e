"""bf16 is chosen only where the processor multiplies it."""

from pathlib import Path

import pytest

from leyden_local.processor import multiplies_bf16


@pytest.mark.parametrize(
    ("line", "fast"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 vpclmulqdq", True),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", False),
        ("model name\t: a processor called bf16", False),
    ],
)
def test_the_flags_say_it(tmp_path: Path, line: str, fast: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n")
    assert multiplies_bf16(tmp_path / "cpuinfo") is fast


def test_where_it_cannot_be_told_fp32_is_safe(tmp_path: Path) -> None:
    assert multiplies_bf16(tmp_path / "missing") is False
