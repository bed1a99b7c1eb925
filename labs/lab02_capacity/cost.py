"""Dollars per million tokens, never for a model on a machine that it does not fit."""

from __future__ import annotations

from labs.common.hardware import gpu as find_gpu
from labs.common.instances import Instance
from labs.common.models import ModelConfig
from labs.common.serving import ServingPlan

from .fit import max_batch
from .phases import decode_time, prefill_time


def dollars_per_million(dollars_per_hour: float, tokens_per_s: float) -> float:
    """Dollars per million tokens, from dollars per hour and tokens per second.

    Raises:
        ValueError: ``tokens_per_s`` is not positive.
    """
    raise NotImplementedError("dollars_per_million: your code here")


def replicas(instance: Instance, plan: ServingPlan) -> int:
    """How many copies of the model the instance holds, each on ``plan.tp`` GPUs of its own."""
    raise NotImplementedError("replicas: your code here")


def serving_cost(
    config: ModelConfig,
    instance: Instance,
    plan: ServingPlan,
    prompt: int,
    output: int,
    batch: int | None = None,
) -> dict[str, float]:
    """What input and output tokens cost on this instance when every replica is always busy.

    Input: prompts of ``prompt`` tokens are taken in one at a time. Output: each replica decodes
    ``batch`` sequences together (as many as fit when left out), at the full context of
    ``prompt + output`` tokens. Times are `prefill_time` and `decode_time`, so the prices are lower
    bounds. Each kind of token is priced as if the instance did nothing else.

    Returns:
        ``{"input": …, "output": …}``, dollars per million tokens of each kind.

    Raises:
        ValueError: the model does not fit (the instance has fewer than ``plan.tp`` GPUs, or not
            even one request fits), or ``batch`` is less than 1 or more than fits.
    """
    raise NotImplementedError("serving_cost: your code here")
