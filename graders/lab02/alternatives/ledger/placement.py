"""Which instance, under which latency, for how much."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from labs.common.hardware import gpu as find_gpu
from labs.common.instances import Instance
from labs.common.models import ModelConfig
from labs.common.serving import Placement, ServingPlan

from .cost import replicas, serving_cost
from .fit import max_batch
from .parallel import legal_tp
from .phases import decode_time, prefill_time


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest n up to limit that fits (0 if none): climbed in strides, digit by digit."""
    n, stride = 0, 1
    while stride * 10 <= limit:
        stride *= 10
    while stride:
        while n + stride <= limit and fits(n + stride):
            n += stride
        stride //= 10
    return n


def place(
    config: ModelConfig,
    instance: Instance,
    plan: ServingPlan,
    prompt: int,
    output: int,
    ttft_s: float,
    tpot_s: float,
) -> Placement | None:
    """The cheapest way to serve this model on this instance within both latencies, or None."""
    gpu, best = find_gpu(instance.gpu), None
    if plan.compute not in gpu.dense_flops:
        return None
    for degree in legal_tp(config, instance.num_gpus):
        trial = dataclasses.replace(plan, tp=degree)

        def step(batch: int, trial: ServingPlan = trial) -> float:
            return decode_time(config, gpu, trial, prompt + output, batch)

        batch = _largest(
            lambda n: step(n) <= tpot_s, max_batch(config, gpu, trial, prompt + output)
        )
        first = prefill_time(config, gpu, trial, prompt)
        if batch < 1 or first > ttft_s:
            continue
        cost = serving_cost(config, instance, trial, prompt, output, batch)["output"]
        if best is None or cost < best.output_cost:
            best = Placement(
                instance.key, degree, replicas(instance, trial), batch, first, step(batch), cost
            )
    return best


def choose(
    config: ModelConfig,
    instances: Sequence[Instance],
    plan: ServingPlan,
    prompt: int,
    output: int,
    ttft_s: float,
    tpot_s: float,
) -> Placement | None:
    """The placement with the lowest cost per million output tokens over all instances, or None."""
    best, best_rank = None, None
    for instance in instances:
        found = place(config, instance, plan, prompt, output, ttft_s, tpot_s)
        if found is not None:
            rank = (found.output_cost, instance.dollars_per_hour)
            if best_rank is None or rank < best_rank:
                best, best_rank = found, rank
    return best
