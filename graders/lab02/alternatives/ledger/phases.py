"""The two phases, prefill and decode: their work on one GPU, and the time it takes at least."""

from __future__ import annotations

from labs.common.formats import Format
from labs.common.hardware import Gpu
from labs.common.models import ModelConfig
from labs.common.serving import ServingPlan, Work

from .kv_cache import cached_tokens, kv_bytes_per_token
from .parallel import all_reduce_bytes, kv_copies
from .parameters import expert_matrices, parameter_groups
from .roofline import step_time
from .weights import bits_per_number


def _routed(config: ModelConfig) -> tuple[int, int]:
    """Matrix weights, and biases, of the routed experts of all layers."""
    matrices = biases = 0
    for layer in range(config.num_layers):
        if config.num_experts and layer >= config.num_dense_layers:
            matrices += config.num_experts * expert_matrices(config)
            if config.linear_bias:
                inner = (2 if config.mlp == "gated" else 1) * config.moe_intermediate_size
                biases += config.num_experts * (inner + config.hidden_size)
    return matrices, biases


def _demand_positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}, must be at least 1")


def _attention(config: ModelConfig, pairs: int, channels: int) -> float:
    """FLOPs of attention: key and value channels of every visible pair."""
    return float(config.num_layers * config.num_attention_heads * pairs * 2 * channels)


def _one_gpu(
    config: ModelConfig, plan: ServingPlan, tokens: int, cached: int, flops: float
) -> Work:
    """One GPU's part: an even share of FLOPs and weights, its heads' part of the cache."""
    copies = kv_copies(config, plan.tp)  # raises if plan.tp is not legal
    weights = weight_traffic(config, plan.weights, tokens)
    cache = cached * kv_bytes_per_token(config, plan.kv) * copies
    return Work(flops / plan.tp, (weights + cache) / plan.tp)


def routed_share(config: ModelConfig, tokens: int) -> float:
    """The expected share of a layer's routed experts that ``tokens`` tokens touch."""
    if not config.num_experts:
        return 1.0
    return 1 - (1 - config.num_experts_per_token / config.num_experts) ** tokens


def weight_traffic(config: ModelConfig, fmt: Format, tokens: int) -> float:
    """Bytes of weights that one forward pass over ``tokens`` tokens reads, on all GPUs together."""
    groups = parameter_groups(config)
    routed, routed_bias = _routed(config)
    share = routed_share(config, tokens)
    matrices = groups["attention"] + groups["mlp"] - routed + share * routed
    others = groups["router"] + groups["norm"] + groups["bias"] - routed_bias + share * routed_bias
    others += config.vocab_size * config.hidden_size  # the head, tied or not
    return (matrices * bits_per_number(fmt) + others * fmt.other_bits) / 8


def matmul_flops(config: ModelConfig, tokens: int, sequences: int) -> float:
    """FLOPs of all matrix products of a forward pass but attention's own, on all GPUs together."""
    groups = parameter_groups(config)
    weights = groups["attention"] + groups["mlp"]
    for layer in range(config.num_layers):
        if config.num_experts and layer >= config.num_dense_layers:
            idle = config.num_experts - config.num_experts_per_token
            weights += config.num_experts * config.hidden_size - idle * expert_matrices(config)
    return float(2 * tokens * weights + 2 * sequences * config.vocab_size * config.hidden_size)


def prefill_work(config: ModelConfig, plan: ServingPlan, prompt: int, batch: int = 1) -> Work:
    """The work of one GPU to take in ``batch`` prompts of ``prompt`` tokens in one forward pass."""
    _demand_positive(prompt=prompt, batch=batch)
    if config.attention == "mla":
        channels = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
    else:
        channels = 2 * config.head_dim
    kept = cached_tokens(config, prompt)
    pairs = sum(range(1, kept + 1)) + (prompt - kept) * kept
    flops = matmul_flops(config, batch * prompt, batch) + _attention(
        config, batch * pairs, channels
    )
    return _one_gpu(config, plan, batch * prompt, batch * kept, flops)


def decode_work(config: ModelConfig, plan: ServingPlan, context: int, batch: int = 1) -> Work:
    """The work of one GPU to produce one token for each of ``batch`` sequences."""
    _demand_positive(context=context, batch=batch)
    if config.attention == "mla":
        channels = 2 * config.kv_lora_rank + config.qk_rope_head_dim
    else:
        channels = 2 * config.head_dim
    kept = cached_tokens(config, context)
    flops = matmul_flops(config, batch, batch) + _attention(config, batch * kept, channels)
    return _one_gpu(config, plan, batch, batch * kept, flops)


def decode_floor(config: ModelConfig, gpu: Gpu, plan: ServingPlan) -> float:
    """Seconds per token that no batch of one can beat: its weights over the memory bandwidth."""
    return weight_traffic(config, plan.weights, 1) / plan.tp / gpu.memory_bandwidth


def communication_time(config: ModelConfig, gpu: Gpu, tokens: int, tp: int) -> float:
    """Seconds that the all-reduces of one forward pass over ``tokens`` tokens take at least."""
    sent = all_reduce_bytes(config, tokens, tp)
    return sent / (gpu.interconnect_bandwidth / 2) if sent else 0.0


def prefill_time(
    config: ModelConfig, gpu: Gpu, plan: ServingPlan, prompt: int, batch: int = 1
) -> float:
    """Seconds to take in ``batch`` prompts at least: the roofline's time, then communication."""
    step = step_time(prefill_work(config, plan, prompt, batch), gpu, plan.compute)
    return step + communication_time(config, gpu, prompt * batch, plan.tp)


def decode_time(
    config: ModelConfig, gpu: Gpu, plan: ServingPlan, context: int, batch: int = 1
) -> float:
    """Seconds of one decode step at least: the roofline's time, then communication."""
    step = step_time(decode_work(config, plan, context, batch), gpu, plan.compute)
    return step + communication_time(config, gpu, batch, plan.tp)
