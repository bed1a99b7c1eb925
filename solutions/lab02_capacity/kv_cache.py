"""What a token, and a request, leaves in the KV cache."""

from __future__ import annotations

import math

from labs.common.formats import Format
from labs.common.models import ModelConfig

from .weights import bits_per_number


def kv_elements_per_token(config: ModelConfig) -> int:
    """Numbers cached for one token, over all layers.

    MHA, MQA and GQA cache a key and a value for each KV head. MLA caches one latent of
    ``kv_lora_rank`` and one rotated key of ``qk_rope_head_dim`` for all heads together.
    """
    ### BEGIN SOLUTION
    if config.attention == "mla":
        per_layer = config.kv_lora_rank + config.qk_rope_head_dim
    else:
        per_layer = 2 * config.num_kv_heads * config.head_dim
    return config.num_layers * per_layer
    ### END SOLUTION


def kv_bytes_per_token(config: ModelConfig, fmt: Format) -> float:
    """Bytes cached for one token, scales of a quantized cache included; not rounded."""
    ### BEGIN SOLUTION
    return kv_elements_per_token(config) * bits_per_number(fmt) / 8
    ### END SOLUTION


def cached_tokens(config: ModelConfig, context: int) -> int:
    """Tokens of a request of ``context`` tokens whose keys can still be asked for.

    With a sliding window only the last ``sliding_window`` of them.

    Raises:
        ValueError: ``context`` is negative.
    """
    ### BEGIN SOLUTION
    if context < 0:
        raise ValueError(f"a context cannot have {context} tokens")
    if config.sliding_window is None:
        return context
    return min(context, config.sliding_window)
    ### END SOLUTION


def kv_bytes_per_request(
    config: ModelConfig, context: int, fmt: Format, block_size: int = 1
) -> int:
    """Bytes that a request of ``context`` tokens occupies in a paged cache.

    What it keeps are its `cached_tokens`. The cache is handed out in blocks of ``block_size``
    tokens: the last block is occupied whole. Rounded up to whole bytes.

    Raises:
        ValueError: ``context`` is negative, or ``block_size`` is less than 1.
    """
    ### BEGIN SOLUTION
    if block_size < 1:
        raise ValueError(f"a block holds at least one token, not {block_size}")
    blocks = math.ceil(cached_tokens(config, context) / block_size)
    return math.ceil(blocks * block_size * kv_bytes_per_token(config, fmt))
    ### END SOLUTION
