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
    raise NotImplementedError("routed_share: your code here")


def weight_traffic(config: ModelConfig, fmt: Format, tokens: int) -> float:
    """Bytes of weights that one forward pass over ``tokens`` tokens reads, on all GPUs together.

    Every weight is read once, with two exceptions. Of the routed experts only the expected share is
    read. The embedding and position tables are not: a lookup takes a few rows, which count as
    nothing. (A tied table is read all the same: as the head, ``vocab_size * hidden_size`` numbers.)
    """
    raise NotImplementedError("weight_traffic: your code here")


def matmul_flops(config: ModelConfig, tokens: int, sequences: int) -> float:
    """FLOPs of all matrix products of a forward pass but attention's own, on all GPUs together.

    Two for each weight a token goes through: attention's projections, its MLP or experts, the
    router's matrix (biases and norms count as nothing). The head runs once for each sequence: only
    the last position's logits are needed.
    """
    raise NotImplementedError("matmul_flops: your code here")


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
    raise NotImplementedError("prefill_work: your code here")


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
    raise NotImplementedError("decode_work: your code here")


def decode_floor(config: ModelConfig, gpu: Gpu, plan: ServingPlan) -> float:
    """Seconds per token that no batch of one can beat: its weights over the memory bandwidth.

    Each GPU reads its share of `weight_traffic` for one token; the cache is left out.
    """
    raise NotImplementedError("decode_floor: your code here")


def communication_time(config: ModelConfig, gpu: Gpu, tokens: int, tp: int) -> float:
    """Seconds that the all-reduces of one forward pass over ``tokens`` tokens take at least.

    What each GPU sends in 16 bits, over half of ``gpu.interconnect_bandwidth``, which counts both
    directions together. The latency of each all-reduce comes on top and is left out.

    Raises:
        ValueError: ``tp`` is not legal for this model.
    """
    raise NotImplementedError("communication_time: your code here")


def prefill_time(
    config: ModelConfig, gpu: Gpu, plan: ServingPlan, prompt: int, batch: int = 1
) -> float:
    """Seconds to take in ``batch`` prompts at least: the roofline's time, then communication.

    Raises:
        ValueError: as `prefill_work`, or the GPU does not compute in ``plan.compute``.
    """
    raise NotImplementedError("prefill_time: your code here")


def decode_time(
    config: ModelConfig, gpu: Gpu, plan: ServingPlan, context: int, batch: int = 1
) -> float:
    """Seconds of one decode step at least: the roofline's time, then communication.

    Raises:
        ValueError: as `decode_work`, or the GPU does not compute in ``plan.compute``.
    """
    raise NotImplementedError("decode_time: your code here")
