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
    raise NotImplementedError("kv_elements_per_token: your code here")


def kv_bytes_per_token(config: ModelConfig, fmt: Format) -> float:
    """Bytes cached for one token, scales of a quantized cache included; not rounded."""
    raise NotImplementedError("kv_bytes_per_token: your code here")


def cached_tokens(config: ModelConfig, context: int) -> int:
    """Tokens of a request of ``context`` tokens whose keys can still be asked for.

    With a sliding window only the last ``sliding_window`` of them.

    Raises:
        ValueError: ``context`` is negative.
    """
    raise NotImplementedError("cached_tokens: your code here")


def kv_bytes_per_request(
    config: ModelConfig, context: int, fmt: Format, block_size: int = 1
) -> int:
    """Bytes that a request of ``context`` tokens occupies in a paged cache.

    What it keeps are its `cached_tokens`. The cache is handed out in blocks of ``block_size``
    tokens: the last block is occupied whole. Rounded up to whole bytes.

    Raises:
        ValueError: ``context`` is negative, or ``block_size`` is less than 1.
    """
    raise NotImplementedError("kv_bytes_per_request: your code here")
