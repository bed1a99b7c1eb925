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
    ### BEGIN SOLUTION
    gpu = find_gpu(instance.gpu)
    if plan.compute not in gpu.dense_flops:
        return None
    best: Placement | None = None
    for degree in legal_tp(config, instance.num_gpus):
        trial = dataclasses.replace(plan, tp=degree)

        def decode_s(batch: int, trial: ServingPlan = trial) -> float:
            return decode_time(config, gpu, trial, prompt + output, batch)

        prefill_s = prefill_time(config, gpu, trial, prompt)
        low, high = 0, max_batch(config, gpu, trial, prompt + output) + 1
        while high - low > 1:  # a step never gets shorter with more sequences in it
            middle = (low + high) // 2
            low, high = (middle, high) if decode_s(middle) <= tpot_s else (low, middle)
        if low == 0 or prefill_s > ttft_s:
            continue
        dollars = serving_cost(config, instance, trial, prompt, output, low)["output"]
        if best is None or dollars < best.output_cost:
            best = Placement(
                instance.key,
                degree,
                replicas(instance, trial),
                low,
                prefill_s,
                decode_s(low),
                dollars,
            )
    return best
    ### END SOLUTION


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
    ### BEGIN SOLUTION
    found = [
        (placement.output_cost, instance.dollars_per_hour, number, placement)
        for number, instance in enumerate(instances)
        if (placement := place(config, instance, plan, prompt, output, ttft_s, tpot_s))
    ]
    return min(found)[-1] if found else None
    ### END SOLUTION
