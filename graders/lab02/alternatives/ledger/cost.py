"""Dollars per million tokens, never for a model on a machine that it does not fit."""

from __future__ import annotations

from labs.common.hardware import gpu as find_gpu
from labs.common.instances import Instance
from labs.common.models import ModelConfig
from labs.common.serving import ServingPlan

from .fit import max_batch
from .phases import decode_time, prefill_time


def dollars_per_million(dollars_per_hour: float, tokens_per_s: float) -> float:
    """Dollars per million tokens, from dollars per hour and tokens per second."""
    if not tokens_per_s > 0:
        raise ValueError(f"{tokens_per_s} tokens a second have no price")
    return dollars_per_hour / 3600 / tokens_per_s * 1e6


def replicas(instance: Instance, plan: ServingPlan) -> int:
    """How many copies of the model the instance holds, each on ``plan.tp`` GPUs of its own."""
    return instance.num_gpus // plan.tp


def serving_cost(
    config: ModelConfig,
    instance: Instance,
    plan: ServingPlan,
    prompt: int,
    output: int,
    batch: int | None = None,
) -> dict[str, float]:
    """What input and output tokens cost on this instance when every replica is always busy."""
    gpu, copies, context = find_gpu(instance.gpu), replicas(instance, plan), prompt + output
    if copies < 1:
        raise ValueError(f"{instance.key} has fewer than {plan.tp} GPUs")
    largest = max_batch(config, gpu, plan, context)
    if largest < 1:
        raise ValueError(f"not one request of {context} tokens of {config.name} fits")
    if batch is None:
        batch = largest
    if not 1 <= batch <= largest:
        raise ValueError(f"a batch of {batch} is not within 1 and {largest}")
    rates = {
        "input": copies * prompt / prefill_time(config, gpu, plan, prompt),
        "output": copies * batch / decode_time(config, gpu, plan, context, batch),
    }
    price = instance.dollars_per_hour
    return {kind: dollars_per_million(price, rate) for kind, rate in rates.items()}
