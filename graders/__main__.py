"""``python -m graders``."""

import contextlib
import gc
import os
import sys
from pathlib import Path

# The oracle's idle OpenMP threads would spin for milliseconds after each tensor operation, on the
# very cores where the worker then wants to run. Must be set before torch loads its OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Importing torch and transformers makes millions of objects that live for ever: a tenth of the
# import's time goes into looking for garbage among them.
gc.set_threshold(50_000, 20, 20)


def _start_early(arguments: list[str]) -> None:
    """For ``grade``, let the fork server import torch while this process does the same.

    Only a guess at the command line, which ``graders.cli`` reads properly: at worst a process is
    started that nobody needs, and it ends with this one.
    """
    if arguments[:1] != ["grade"] or {"none", "--isolation=none", "--pdb", "-h", "--help"} & {
        *arguments
    }:
        return
    with contextlib.suppress(Exception):  # whatever is wrong, the command line explains it better
        from graders.manifest import find_lab
        from graders.oracle.workers import start_early

        root = Path(__file__).resolve().parents[1]
        start_early(root, find_lab(root, arguments[1]).preload)


_start_early(sys.argv[1:])

from graders.cli import main  # noqa: E402

status = main()
gc.freeze()  # or the interpreter looks through all of them once more on its way out: a second
raise SystemExit(status)
