"""Tensor parallelism: which degrees are legal, what is split, what is copied, what is sent."""

from __future__ import annotations

import math
from fractions import Fraction

from labs.common.formats import Format
from labs.common.models import ModelConfig

from .parameters import parameter_groups
from .weights import matrix_bytes


def _splits(config: ModelConfig, degree: int) -> bool:
    if config.num_attention_heads % degree:
        return False
    kv = config.num_kv_heads
    if config.attention != "mla" and kv % degree and not (kv < degree and degree % kv == 0):
        return False
    widths = set()
    for layer in range(config.num_layers):
        expert_layer = config.num_experts and layer >= config.num_dense_layers
        widths.add(config.moe_intermediate_size if expert_layer else config.intermediate_size)
    return all(width % degree == 0 for width in widths)


def _demand_legal(config: ModelConfig, tp: int) -> None:
    if tp < 1 or not _splits(config, tp):
        raise ValueError(f"{config.name} does not split over {tp} GPUs")


def legal_tp(config: ModelConfig, max_degree: int) -> list[int]:
    """Degrees from 1 to ``max_degree`` over which the model can be split, in ascending order."""
    return [degree for degree in range(1, max_degree + 1) if _splits(config, degree)]


def kv_copies(config: ModelConfig, tp: int) -> int:
    """On how many GPUs each KV head lies: 1, or more where there are fewer heads than GPUs."""
    _demand_legal(config, tp)
    if config.attention == "mla":
        return tp
    return tp // config.num_kv_heads if tp > config.num_kv_heads else 1


def weight_bytes_per_gpu(config: ModelConfig, fmt: Format, tp: int) -> int:
    """Bytes of weights on each GPU."""
    _demand_legal(config, tp)
    groups = parameter_groups(config)
    copied = (groups["norm"] + groups["router"]) * fmt.other_bits
    split = (groups["embedding"] + groups["bias"] + groups["head"]) * fmt.other_bits
    matrices = matrix_bytes(groups["attention"] + groups["mlp"], fmt)
    return math.ceil(Fraction(copied, 8) + (Fraction(split, 8) + matrices) / tp)


def all_reduce_bytes(config: ModelConfig, tokens: int, tp: int, bits: int = 16) -> float:
    """Bytes that each GPU sends in one forward pass over ``tokens`` tokens."""
    _demand_legal(config, tp)
    payload = Fraction(tokens * config.hidden_size * bits, 8)
    ring = payload * 2 * (tp - 1) / tp
    sent = sum(ring for _ in ("attention", "mlp")) * config.num_layers
    return float(sent)
