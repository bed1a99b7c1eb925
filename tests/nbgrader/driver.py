"""Runs nbgrader's own commands, one a line of standard input, in a process that has them imported.

Starting nbgrader takes longer than most of what it does. A line is a folder, a tab and a command;
the answer ends with a line ``=> STATUS``.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
import warnings

warnings.simplefilter("ignore")  # SQLAlchemy's, about nbgrader's own code

from jupyter_core.application import NoStart  # noqa: E402
from nbgrader.apps.nbgraderapp import NbGraderApp  # noqa: E402


def run(command: str) -> int:
    """One command; its exit status."""
    app = NbGraderApp()
    try:
        app.initialize(shlex.split(command))
        app.start()
        return 0
    except NoStart:  # how the command above all says that one below it has run
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        return 99
    finally:
        below = app.subapp
        while below is not None:  # `db assignment add` is three apps in each other
            type(below).clear_instance()
            below = below.subapp


if __name__ == "__main__":
    os.dup2(1, 2)
    for line in sys.stdin:
        folder, _, command = line.rstrip("\n").partition("\t")
        os.chdir(folder)
        status = run(command)
        sys.stderr.flush()
        print(f"\n=> {status}", flush=True)
