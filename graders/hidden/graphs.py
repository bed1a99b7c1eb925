"""CUDA graphs for reference measurements; how to capture one is what some tasks ask for."""

from __future__ import annotations

from collections.abc import Callable

import torch


def graphed(step: Callable[[], object], device: str) -> Callable[[], object]:
    """The step without its launch overhead: a CUDA graph where there is CUDA."""
    if not device.startswith("cuda"):
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
