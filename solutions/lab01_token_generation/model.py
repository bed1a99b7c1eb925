"""A Llama, read from a Hugging Face checkpoint.

Axes: B batch, T new tokens, C hidden size, H query heads, K key-value heads, D head_dim,
V vocabulary.
Source: Touvron et al., "LLaMA" (2023); layout of the files as in transformers' LlamaForCausalLM.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from .attention import KVCache, attend
from .norm import rms_norm
from .rope import apply_rope, rope_tables


@dataclass(frozen=True)
class LlamaConfig:
    """What the forward needs from ``config.json``."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool

    @classmethod
    def from_dir(cls, path: str | Path) -> LlamaConfig:
        """Read ``config.json``; accepts the field names of transformers 4 and 5.

        Raises:
            ValueError: the checkpoint asks for a kind of rotary embedding this lab does not build.
        """
        raw = json.loads((Path(path) / "config.json").read_text())
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise ValueError(f"rope type {kind!r} is not part of this lab")
        heads = raw["num_attention_heads"]
        return cls(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            num_layers=raw["num_hidden_layers"],
            num_attention_heads=heads,
            num_kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope_theta=rope.get("rope_theta", raw.get("rope_theta", 10000.0)),
            tie_word_embeddings=raw.get("tie_word_embeddings", False),
        )


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint by name, from one ``model.safetensors`` or from its shards."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(Path(path).glob("*.safetensors")):
        tensors.update(load_file(shard))
    if not tensors:
        raise FileNotFoundError(f"no .safetensors file in {path}")
    return tensors


class Llama:
    """The model: ``config``, ``weights`` by their names in the checkpoint, and the forward."""

    def __init__(self, config: LlamaConfig, weights: dict[str, torch.Tensor]) -> None:
        self.config = config
        self.weights = weights

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights["model.norm.weight"].device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.weights["model.norm.weight"].dtype

    def new_cache(self, batch: int, max_len: int) -> KVCache:
        """An empty cache of this model's shape, dtype and device."""
        c = self.config
        return KVCache(
            c.num_layers, batch, c.num_kv_heads, max_len, c.head_dim, self.dtype, self.device
        )

    def forward(
        self,
        tokens_BT: torch.Tensor,
        positions_BT: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Logits for every given token.

        Args:
            tokens_BT: int64 token ids.
            positions_BT: the position of each token, -1 for padding; 0 .. T-1 when left out.
            cache: holds the earlier tokens, and takes in these. Without one, the given tokens are
                all there is, and each row's positions count up from 0 (padding apart).

        Returns:
            ``[B, T, V]`` in the dtype of the weights. Rows of padding tokens are finite but mean
            nothing.
        """
        ### BEGIN SOLUTION
        c, w = self.config, self.weights
        batch, length = tokens_BT.shape
        if positions_BT is None:
            positions_BT = torch.arange(length, device=tokens_BT.device).expand(batch, length)
        if cache is None:
            cache = self.new_cache(batch, int(positions_BT.max()) + 1)
        cos, sin = rope_tables(positions_BT, c.head_dim, c.rope_theta)
        cos, sin = cos.to(self.dtype), sin.to(self.dtype)

        def linear(name: str, value: torch.Tensor) -> torch.Tensor:
            return F.linear(value, w[f"{name}.weight"], w.get(f"{name}.bias"))

        def heads(value: torch.Tensor, count: int) -> torch.Tensor:
            return value.view(batch, length, count, c.head_dim).transpose(1, 2)

        h_BTC = F.embedding(tokens_BT, w["model.embed_tokens.weight"])
        for layer in range(c.num_layers):
            p = f"model.layers.{layer}"
            x = rms_norm(h_BTC, w[f"{p}.input_layernorm.weight"], c.rms_norm_eps)
            q = heads(linear(f"{p}.self_attn.q_proj", x), c.num_attention_heads)
            k = heads(linear(f"{p}.self_attn.k_proj", x), c.num_kv_heads)
            v = heads(linear(f"{p}.self_attn.v_proj", x), c.num_kv_heads)
            q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
            keys, values = cache.update(layer, k, v, positions_BT)
            out = attend(q, keys, values, positions_BT).transpose(1, 2).reshape(batch, length, -1)
            h_BTC = h_BTC + linear(f"{p}.self_attn.o_proj", out)
            x = rms_norm(h_BTC, w[f"{p}.post_attention_layernorm.weight"], c.rms_norm_eps)
            gate = F.silu(linear(f"{p}.mlp.gate_proj", x))
            h_BTC = h_BTC + linear(f"{p}.mlp.down_proj", gate * linear(f"{p}.mlp.up_proj", x))
        h_BTC = rms_norm(h_BTC, w["model.norm.weight"], c.rms_norm_eps)
        # Tied checkpoints store no lm_head: the embedding serves both ends.
        head = "model.embed_tokens" if c.tie_word_embeddings else "lm_head"
        return linear(head, h_BTC)
        ### END SOLUTION


def load_model(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Llama:
    """Read a checkpoint directory.

    Args:
        path: holds ``config.json`` and one or more ``*.safetensors``.
        dtype: convert the weights to it; kept as stored when left out.
        device: where to put them.
    """
    weights = {
        name: tensor.to(device=device, dtype=dtype or tensor.dtype)
        for name, tensor in load_weights(path).items()
    }
    return Llama(LlamaConfig.from_dir(path), weights)
