"""Triton kernels of the solutions, on the CPU through Triton's interpreter.

The interpreter must be chosen before Triton is first imported, so each file runs in a process of
its own. What a GPU's compiler makes of the kernels is checked by the GPU tiers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent / "interpreted").glob("check_*.py"))


@pytest.mark.skipif(
    sys.platform != "linux", reason="Triton exists for Linux only: NOT CHECKED here"
)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kernels_through_the_interpreter(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
