"""``python -m graders``."""

import gc
import os

# The oracle's idle OpenMP threads would spin for milliseconds after each tensor operation, on the
# very cores where the worker then wants to run. Must be set before torch loads its OpenMP; the fork
# server does not inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Importing torch and transformers makes millions of objects that live for ever: a tenth of the
# import's time goes into looking for garbage among them.
gc.set_threshold(50_000, 20, 20)

from graders.cli import main  # noqa: E402

status = main()
gc.freeze()  # or the interpreter looks through all of them once more on its way out: a second
raise SystemExit(status)
