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
    raise NotImplementedError("legal_tp: your code here")


def kv_copies(config: ModelConfig, tp: int) -> int:
    """On how many GPUs each KV head lies: 1, or more where there are fewer heads than GPUs.

    MLA's latent is needed by every head, so it lies on all ``tp`` GPUs.

    Raises:
        ValueError: ``tp`` is not legal for this model.
    """
    raise NotImplementedError("kv_copies: your code here")


def weight_bytes_per_gpu(config: ModelConfig, fmt: Format, tp: int) -> int:
    """Bytes of weights on each GPU.

    Norms and routers are copied to every GPU; everything else is split evenly, rounded up to whole
    bytes. (Projections of KV heads that are copied add less than 2 % and are left out.)

    Raises:
        ValueError: ``tp`` is not legal for this model.
    """
    raise NotImplementedError("weight_bytes_per_gpu: your code here")


def all_reduce_bytes(config: ModelConfig, tokens: int, tp: int, bits: int = 16) -> float:
    """Bytes that each GPU sends in one forward pass over ``tokens`` tokens.

    Two all-reduces a layer, after the attention's output projection and after the MLP, each over
    ``tokens * hidden_size`` numbers. A ring all-reduce of n bytes makes every GPU send
    ``2 (tp - 1) / tp * n``.

    Raises:
        ValueError: ``tp`` is not legal for this model.
    """
    raise NotImplementedError("all_reduce_bytes: your code here")
