"""Tensor parallelism: which degrees are legal, what is split, what is copied, what is sent."""

from __future__ import annotations

import math

from labs.common.formats import Format
from labs.common.models import ModelConfig

from .parameters import parameter_groups
from .weights import matrix_bytes


def legal_tp(config: ModelConfig, max_degree: int) -> list[int]:
    """Degrees from 1 to ``max_degree`` over which the model can be split, in ascending order.

    A degree is legal if query heads split evenly; KV heads split evenly or, where there are fewer
    heads than GPUs, each head goes to the same number of GPUs (MLA's latent belongs to no head and
    puts no condition); and the columns of every MLP split evenly: ``intermediate_size`` where the
    model has dense layers, ``moe_intermediate_size`` where it has experts.

    The vocabulary does not matter: engines pad it.
    """
    ### BEGIN SOLUTION
    c = config

    def legal(degree: int) -> bool:
        if c.num_attention_heads % degree:
            return False
        if c.attention != "mla" and c.num_kv_heads % degree and degree % c.num_kv_heads:
            return False
        has_dense = not c.num_experts or c.num_dense_layers > 0
        if has_dense and c.intermediate_size % degree:
            return False
        return not (c.num_experts and c.moe_intermediate_size % degree)

    return [degree for degree in range(1, max_degree + 1) if legal(degree)]
    ### END SOLUTION


def kv_copies(config: ModelConfig, tp: int) -> int:
    """On how many GPUs each KV head lies: 1, or more where there are fewer heads than GPUs.

    MLA's latent is needed by every head, so it lies on all ``tp`` GPUs.

    Raises:
        ValueError: ``tp`` is not legal for this model.
    """
    ### BEGIN SOLUTION
    if tp < 1 or tp not in legal_tp(config, tp):
        raise ValueError(f"{config.key} cannot be split over {tp} GPUs")
    if config.attention == "mla":
        return tp
    return max(1, tp // config.num_kv_heads)
    ### END SOLUTION


def weight_bytes_per_gpu(config: ModelConfig, fmt: Format, tp: int) -> int:
    """Bytes of weights on each GPU.

    Norms and routers are copied to every GPU; everything else is split evenly, rounded up to whole
    bytes. (Projections of KV heads that are copied add less than 2 % and are left out.)

    Raises:
        ValueError: ``tp`` is not legal for this model.
    """
    ### BEGIN SOLUTION
    kv_copies(config, tp)  # refuses an illegal degree
    groups = parameter_groups(config)
    matrices = groups["attention"] + groups["mlp"]
    copied = groups["norm"] + groups["router"]
    others = sum(groups.values()) - matrices - copied
    split_bytes = matrix_bytes(matrices, fmt) + math.ceil(others * fmt.other_bits / 8)
    return math.ceil(split_bytes / tp) + math.ceil(copied * fmt.other_bits / 8)
    ### END SOLUTION


def all_reduce_bytes(config: ModelConfig, tokens: int, tp: int, bits: int = 16) -> float:
    """Bytes that each GPU sends in one forward pass over ``tokens`` tokens.

    Two all-reduces a layer, after the attention's output projection and after the MLP, each over
    ``tokens * hidden_size`` numbers. A ring all-reduce of n bytes makes every GPU send
    ``2 (tp - 1) / tp * n``.

    Raises:
        ValueError: ``tp`` is not legal for this model.
    """
    ### BEGIN SOLUTION
    kv_copies(config, tp)
    payload = 2 * config.num_layers * tokens * config.hidden_size * bits / 8
    return 2 * (tp - 1) / tp * payload
    ### END SOLUTION
