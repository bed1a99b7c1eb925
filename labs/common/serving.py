"""The plain records of capacity planning: a plan, an amount of work, a placement."""

from __future__ import annotations

from dataclasses import dataclass

from .formats import FORMATS, Format


@dataclass(frozen=True)
class ServingPlan:
    """How a model is served on one replica.

    Attributes:
        weights: how the matrices are stored.
        kv: how the cache is stored.
        compute: the dtype whose peak bounds the arithmetic, a key of ``Gpu.dense_flops``.
        tp: GPUs of one replica (tensor parallelism).
        block_size: tokens in one block of the paged cache.
        max_tokens: most tokens in one forward pass, which sizes the activations.
        utilization: share of a GPU's memory that the engine may take.
    """

    weights: Format = FORMATS["bf16"]
    kv: Format = FORMATS["bf16"]
    compute: str = "bf16"
    tp: int = 1
    block_size: int = 16
    max_tokens: int = 8192
    utilization: float = 0.92


@dataclass(frozen=True)
class Work:
    """What one GPU does in one forward pass: floating-point operations, and bytes of its memory."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Placement:
    """A model on an instance.

    Attributes:
        instance: the instance's key.
        tp: GPUs of one replica.
        replicas: copies of the model on the instance.
        batch: sequences that each replica decodes together.
        ttft_s: prefill time of one prompt alone, seconds.
        tpot_s: time of one decode step, seconds.
        output_cost: dollars per million output tokens.
    """

    instance: str
    tp: int
    replicas: int
    batch: int
    ttft_s: float
    tpot_s: float
    output_cost: float
