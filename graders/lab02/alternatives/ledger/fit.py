"""What fits: memory of one GPU as a function of batch and context, and its inverses."""

from __future__ import annotations

import math
from collections.abc import Callable

from labs.common.hardware import Gpu
from labs.common.models import ModelConfig
from labs.common.serving import ServingPlan

from .kv_cache import kv_bytes_per_request
from .parallel import kv_copies, weight_bytes_per_gpu


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


def activation_bytes(
    config: ModelConfig, tokens: int, sequences: int, bits: int = 16, tp: int = 1
) -> int:
    """Peak bytes of activations on one GPU in a forward pass over ``tokens`` tokens."""

    def share(count: int) -> int:
        return -(-count // tp)

    h, heads = config.hidden_size, share(config.num_attention_heads)
    if config.attention == "mla":
        key, value = config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim
        kv_heads = heads
    else:
        key = value = config.head_dim
        kv_heads = share(config.num_kv_heads)
    attention = 2 * h + heads * key + kv_heads * (key + value) + heads * value

    copies = 3 if config.mlp == "gated" else 2
    mlp = 0
    for layer in range(config.num_layers):
        if config.num_experts and layer >= config.num_dense_layers:
            experts = config.num_experts_per_token + config.num_shared_experts
            width = experts * share(config.moe_intermediate_size)
        else:
            width = share(config.intermediate_size)
        mlp = max(mlp, 2 * h + copies * width)

    moments = (
        tokens * attention * bits,
        tokens * mlp * bits,
        sequences * (h * bits + share(config.vocab_size) * 32),
    )
    return -(-max(moments) // 8)


def memory_bytes(config: ModelConfig, plan: ServingPlan, batch: int, context: int) -> int:
    """Bytes on each GPU: weights, activations and caches."""
    request = kv_bytes_per_request(config, context, plan.kv, plan.block_size)
    request = -(-request * kv_copies(config, plan.tp) // plan.tp)
    return (
        weight_bytes_per_gpu(config, plan.weights, plan.tp)
        + activation_bytes(config, plan.max_tokens, batch, 16, plan.tp)
        + batch * request
    )


def max_batch(config: ModelConfig, gpu: Gpu, plan: ServingPlan, context: int) -> int:
    """The most requests of ``context`` tokens that fit together; 0 if not even one does."""
    if context < 1:
        raise ValueError(f"a context of {context} tokens is no request")
    room = math.floor(gpu.memory_bytes * plan.utilization)
    alone = memory_bytes(config, plan, 0, context)  # checks plan.tp, too
    if alone > room:
        return 0
    each = -(
        -kv_bytes_per_request(config, context, plan.kv, plan.block_size)
        * kv_copies(config, plan.tp)
        // plan.tp
    )
    return _largest(
        lambda batch: memory_bytes(config, plan, batch, context) <= room, (room - alone) // each
    )


def max_context(config: ModelConfig, gpu: Gpu, plan: ServingPlan, batch: int) -> int:
    """The longest context that ``batch`` requests can have at once."""
    if batch < 1:
        raise ValueError(f"a batch of {batch} requests is none")
    room = math.floor(gpu.memory_bytes * plan.utilization)
    memory_bytes(config, plan, batch, 0)  # checks plan.tp
    return _largest(
        lambda context: memory_bytes(config, plan, batch, context) <= room,
        config.max_position_embeddings,
    )
