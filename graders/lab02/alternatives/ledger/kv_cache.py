"""What a token, and a request, leaves in the KV cache."""

from __future__ import annotations

import math
from fractions import Fraction

from labs.common.formats import Format
from labs.common.models import ModelConfig

from .weights import bits_per_number


def kv_elements_per_token(config: ModelConfig) -> int:
    """Numbers cached for one token, over all layers."""
    elements = 0
    for _ in range(config.num_layers):
        if config.attention == "mla":
            elements += config.kv_lora_rank + config.qk_rope_head_dim
        else:
            elements += 2 * config.num_kv_heads * config.head_dim
    return elements


def kv_bytes_per_token(config: ModelConfig, fmt: Format) -> float:
    """Bytes cached for one token, scales of a quantized cache included; not rounded."""
    return kv_elements_per_token(config) * bits_per_number(fmt) / 8


def cached_tokens(config: ModelConfig, context: int) -> int:
    """Tokens of a request of ``context`` tokens whose keys can still be asked for."""
    if context < 0:
        raise ValueError(f"a context of {context} tokens is negative")
    return context if config.sliding_window is None else min(context, config.sliding_window)


def kv_bytes_per_request(
    config: ModelConfig, context: int, fmt: Format, block_size: int = 1
) -> int:
    """Bytes that a request of ``context`` tokens occupies in a paged cache."""
    if block_size < 1:
        raise ValueError(f"a block of {block_size} tokens holds nothing")
    tokens = cached_tokens(config, context)
    tokens += -tokens % block_size
    bits = Fraction(bits_per_number(fmt)).limit_denominator(10**9)
    return math.ceil(tokens * kv_elements_per_token(config) * bits / 8)
