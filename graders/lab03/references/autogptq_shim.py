"""auto-gptq 0.7.1 without a GPU: three patches, and why.

The library's arithmetic runs anywhere, but its last release insists on CUDA around it:

1. ``from_pretrained`` refuses to start unless ``torch.cuda.is_available()``;
2. ``quantize`` moves layers to its constant ``CUDA_0``;
3. ``fasterquant``, ``free`` and ``quantize`` call ``torch.cuda.synchronize`` and ``empty_cache``.

`on_cpu` mends these while it is active and puts everything back. Where there is a GPU it does
nothing: the library then runs as its authors meant it to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """auto-gptq works on the CPU within this block; a no-op where there is a GPU."""
    if torch.cuda.is_available():
        yield
        return
    import auto_gptq.modeling._base as base

    cpu = torch.device("cpu")
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(base, "CUDA_0", cpu))
        for name in ("synchronize", "empty_cache"):
            patches.enter_context(mock.patch.object(torch.cuda, name, _nothing))
        yield


@contextlib.contextmanager
def pretend_cuda() -> Iterator[None]:
    """``torch.cuda.is_available()`` says yes: only around ``from_pretrained``, which only asks."""
    with mock.patch.object(torch.cuda, "is_available", lambda: True):
        yield


def _nothing(*_: object) -> None:
    return None
