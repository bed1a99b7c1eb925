"""The debugger of ``--pdb``: it opens where the submission raised, in the student's own frame."""

from __future__ import annotations

import pdb
import sys
import types
from pathlib import Path
from typing import Any

from graders.oracle.checks import EXPECTED

_quit = False


class _Pdb(pdb.Pdb):
    """A debugger whose ``q`` means: no more of this, finish the run and show the report."""

    def do_quit(self, arg: str) -> Any:
        """q(uit): leave, and do not stop again in this run."""
        global _quit
        _quit = True
        return super().do_quit(arg)

    do_q = do_exit = do_EOF = do_quit


class PostMortem:
    """Called with an exception's traceback, while the exception is being handled."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()

    def __call__(self, trace: types.TracebackType | None) -> None:
        """Open the debugger, unless the student has left it before."""
        error = sys.exc_info()[1]
        wanted = any(kind.__name__ in EXPECTED for kind in type(error).__mro__)
        if _quit or trace is None or wanted:
            return
        debugger = _Pdb()
        debugger.reset()
        print(f"\n{type(error).__name__}: {error}")
        print("Stopped in your code. c: on to the next exception; q: finish and show the report.")
        own = self._own(trace)
        if own is None:
            debugger.interaction(None, trace)
            return
        # The traceback from the student's first frame on, so that `up` never enters the grader;
        # `up` from where torch raised, so that the prompt stands in the student's file.
        deeper = self._frames_below(own)
        debugger.cmdqueue = ["up"] * deeper
        debugger.interaction(None, own)

    def _mine(self, trace: types.TracebackType) -> bool:
        return Path(trace.tb_frame.f_code.co_filename).is_relative_to(self._directory)

    def _own(self, trace: types.TracebackType) -> types.TracebackType | None:
        step: types.TracebackType | None = trace
        while step is not None and not self._mine(step):
            step = step.tb_next
        return step

    def _frames_below(self, trace: types.TracebackType) -> int:
        """How many frames lie below the submission's last one."""
        count = 0
        step: types.TracebackType | None = trace
        while step is not None:
            count = 0 if self._mine(step) else count + 1
            step = step.tb_next
        return count
