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


def routed_share(config: ModelConfig, tokens: int) -> float:
    """The expected share of a layer's routed experts that ``tokens`` tokens touch.

    With E experts, k a token, and every choice equally likely: ``1 - (1 - k / E) ** tokens``.
    ``tokens`` are all that the forward pass computes, over all sequences. 1 for a dense model.
    """
    ### BEGIN SOLUTION
    if not config.num_experts:
        return 1.0
    return 1 - (1 - config.num_experts_per_token / config.num_experts) ** tokens


def _idle_experts(config: ModelConfig, share: float) -> float:
    """Weights of the routed experts that are not touched when ``share`` of them are."""
    moe_layers = config.num_layers - config.num_dense_layers
    return moe_layers * config.num_experts * (1 - share) * expert_matrices(config)
    ### END SOLUTION


def weight_traffic(config: ModelConfig, fmt: Format, tokens: int) -> float:
    """Bytes of weights that one forward pass over ``tokens`` tokens reads, on all GPUs together.

    Every weight is read once, with two exceptions. Of the routed experts only the expected share is
    read. The embedding and position tables are not: a lookup takes a few rows, which count as
    nothing. (A tied table is read all the same: as the head, ``vocab_size * hidden_size`` numbers.)
    """
    ### BEGIN SOLUTION
    groups = parameter_groups(config)
    matrices = float(groups["attention"] + groups["mlp"])
    matrices -= _idle_experts(config, routed_share(config, tokens))
    head = config.vocab_size * config.hidden_size
    others = groups["router"] + groups["norm"] + groups["bias"] + head
    return (matrices * bits_per_number(fmt) + others * fmt.other_bits) / 8
    ### END SOLUTION


def matmul_flops(config: ModelConfig, tokens: int, sequences: int) -> float:
    """FLOPs of all matrix products of a forward pass but attention's own, on all GPUs together.

    Two for each weight a token goes through: attention's projections, its MLP or experts, the
    router's matrix (biases and norms count as nothing). The head runs once for each sequence: only
    the last position's logits are needed.
    """
    ### BEGIN SOLUTION
    groups = parameter_groups(config)
    per_token = float(groups["attention"] + groups["mlp"])
    if config.num_experts:
        share = config.num_experts_per_token / config.num_experts
        moe_layers = config.num_layers - config.num_dense_layers
        per_token -= _idle_experts(config, share)
        per_token += moe_layers * config.num_experts * config.hidden_size
    head = config.vocab_size * config.hidden_size
    return 2 * (tokens * per_token + sequences * head)
    ### END SOLUTION


def prefill_work(config: ModelConfig, plan: ServingPlan, prompt: int, batch: int = 1) -> Work:
    """The work of one GPU to take in ``batch`` prompts of ``prompt`` tokens in one forward pass.

    FLOPs: `matmul_flops`, and attention: for each layer, query head and visible (query, key) pair
    two FLOPs a channel of the key and two a channel of the value. Causal: the i-th token sees i
    tokens, itself included, or the sliding window's. (MLA in its naive form: keys of
    ``qk_nope_head_dim + qk_rope_head_dim``, values of ``v_head_dim``.)

    Bytes: `weight_traffic`, and the cache of all `cached_tokens` written once.

    Each of the ``plan.tp`` GPUs does its even share of FLOPs and weights (the norms, which each one
    reads whole, are too small to matter), but moves ``kv_copies / tp`` of the cache.

    Raises:
        ValueError: ``prompt`` or ``batch`` is less than 1, or ``plan.tp`` is not legal.
    """
    ### BEGIN SOLUTION
    window = config.sliding_window or prompt
    inside = min(prompt, window)  # tokens that see everything before them
    pairs = inside * (inside + 1) // 2 + (prompt - inside) * window
    if config.attention == "mla":
        channels = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
    else:
        channels = 2 * config.head_dim
    return _work(config, plan, batch, prompt, pairs * channels, cached_tokens(config, prompt))


def _work(
    config: ModelConfig, plan: ServingPlan, batch: int, new: int, pair_channels: int, moved: int
) -> Work:
    """Work of a pass with ``new`` tokens a sequence; ``moved`` entries of each one's cache move."""
    if batch < 1 or new < 1 or moved < 1:
        raise ValueError("a pass has at least one sequence of at least one token")
    copies = kv_copies(config, plan.tp)
    attention = 2 * config.num_layers * config.num_attention_heads * pair_channels * batch
    flops = matmul_flops(config, batch * new, batch) + attention
    cache = batch * moved * kv_bytes_per_token(config, plan.kv) * copies
    weights = weight_traffic(config, plan.weights, batch * new)
    return Work(flops / plan.tp, (weights + cache) / plan.tp)
    ### END SOLUTION


def decode_work(config: ModelConfig, plan: ServingPlan, context: int, batch: int = 1) -> Work:
    """The work of one GPU to produce one token for each of ``batch`` sequences.

    ``context`` counts the tokens that the new token sees, itself included.

    FLOPs: `matmul_flops` and attention of the one query over its `cached_tokens`. MLA in its
    absorbed form: scores against the latent and the rotated key (``kv_lora_rank +
    qk_rope_head_dim`` channels), values of ``kv_lora_rank``; the matrices absorbed cost what they
    cost in `matmul_flops`.

    Bytes: `weight_traffic`, and each of the `cached_tokens` entries once: the old ones are read,
    the new one is written.

    Each of the ``plan.tp`` GPUs does its even share of FLOPs and weights (the norms, which each one
    reads whole, are too small to matter), but moves ``kv_copies / tp`` of the cache.

    Raises:
        ValueError: ``context`` or ``batch`` is less than 1, or ``plan.tp`` is not legal.
    """
    ### BEGIN SOLUTION
    seen = cached_tokens(config, context)
    if config.attention == "mla":
        channels = 2 * config.kv_lora_rank + config.qk_rope_head_dim
    else:
        channels = 2 * config.head_dim
    return _work(config, plan, batch, 1, seen * channels, seen)
    ### END SOLUTION


def decode_floor(config: ModelConfig, gpu: Gpu, plan: ServingPlan) -> float:
    """Seconds per token that no batch of one can beat: its weights over the memory bandwidth.

    Each GPU reads its share of `weight_traffic` for one token; the cache is left out.
    """
    ### BEGIN SOLUTION
    return weight_traffic(config, plan.weights, 1) / plan.tp / gpu.memory_bandwidth
    ### END SOLUTION


def communication_time(config: ModelConfig, gpu: Gpu, tokens: int, tp: int) -> float:
    """Seconds that the all-reduces of one forward pass over ``tokens`` tokens take at least.

    What each GPU sends in 16 bits, over half of ``gpu.interconnect_bandwidth``, which counts both
    directions together. The latency of each all-reduce comes on top and is left out.

    Raises:
        ValueError: ``tp`` is not legal for this model.
    """
    ### BEGIN SOLUTION
    return all_reduce_bytes(config, tokens, tp) / (gpu.interconnect_bandwidth / 2)
    ### END SOLUTION


def prefill_time(
    config: ModelConfig, gpu: Gpu, plan: ServingPlan, prompt: int, batch: int = 1
) -> float:
    """Seconds to take in ``batch`` prompts at least: the roofline's time, then communication.

    Raises:
        ValueError: as `prefill_work`, or the GPU does not compute in ``plan.compute``.
    """
    ### BEGIN SOLUTION
    work = prefill_work(config, plan, prompt, batch)
    sending = communication_time(config, gpu, batch * prompt, plan.tp)
    return step_time(work, gpu, plan.compute) + sending
    ### END SOLUTION


def decode_time(
    config: ModelConfig, gpu: Gpu, plan: ServingPlan, context: int, batch: int = 1
) -> float:
    """Seconds of one decode step at least: the roofline's time, then communication.

    Raises:
        ValueError: as `decode_work`, or the GPU does not compute in ``plan.compute``.
    """
    ### BEGIN SOLUTION
    work = decode_work(config, plan, context, batch)
    return step_time(work, gpu, plan.compute) + communication_time(config, gpu, batch, plan.tp)
    ### END SOLUTION
