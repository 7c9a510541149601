"""CPU features, read from /proc/cpuinfo."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.runtime.machine import cpu_has_bfloat16


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("flags : fpu avx avx2 avx512f avx512_bf16", True),
        ("flags : fpu avx2 amx_bf16 amx_tile", True),
        ("Features : fp asimd bf16 i8mm", True),
        ("flags : fpu avx avx2 avx512f", False),
        ("model name : some bf16x processor", False),
    ],
)
def test_bfloat16_instructions_are_found_in_cpuinfo(tmp_path: Path, flags: str, has: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(flags)
    assert cpu_has_bfloat16(cpuinfo) is has
