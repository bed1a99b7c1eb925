"""Which instance, under which latency, for how much."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from labs.common.hardware import gpu as find_gpu
from labs.common.instances import Instance
from labs.common.models import ModelConfig
from labs.common.serving import Placement, ServingPlan

from .cost import replicas, serving_cost
from .fit import max_batch
from .parallel import legal_tp
from .phases import decode_time, prefill_time


def place(
    config: ModelConfig,
    instance: Instance,
    plan: ServingPlan,
    prompt: int,
    output: int,
    ttft_s: float,
    tpot_s: float,
) -> Placement | None:
    """The cheapest way to serve this model on this instance within both latencies, or None.

    All legal degrees of tensor parallelism up to the instance's GPUs are tried (``plan.tp`` is
    ignored), each with the largest batch that fits (context ``prompt + output``) and whose decode
    step takes at most ``tpot_s`` seconds. A prefill of one prompt must take at most ``ttft_s``
    seconds. (A decode step never gets shorter with more sequences in it.) Of the degrees that meet
    both, the one with the lowest cost per million output tokens wins; of equal ones the smaller
    degree. A GPU that does not compute in ``plan.compute`` has no
    placement.
    """
    raise NotImplementedError("place: your code here")


def choose(
    config: ModelConfig,
    instances: Sequence[Instance],
    plan: ServingPlan,
    prompt: int,
    output: int,
    ttft_s: float,
    tpot_s: float,
) -> Placement | None:
    """The placement with the lowest cost per million output tokens over all instances, or None.

    Of equal ones the instance with the lower price an hour, then the one listed first.
    """
    raise NotImplementedError("choose: your code here")
