"""The forward with torch's own kernels only: none of the lab's other modules but the cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from .attention import KVCache


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
        """As the solution: one fused projection, complex rotation, one mask for all layers."""
        w, c = self.weights, self.config
        batch, length = tokens_BT.shape
        device = tokens_BT.device
        if positions_BT is None:
            positions_BT = torch.arange(length, device=device).expand(batch, length)
        if cache is None:
            cache = self.new_cache(batch, length)
        heads = (c.num_attention_heads, c.num_kv_heads, c.num_kv_heads)
        half = torch.arange(c.head_dim // 2, device=device)
        angle = positions_BT[:, None, :, None] * c.rope_theta ** (-2.0 * half / c.head_dim)
        turn = torch.polar(torch.ones_like(angle), angle)
        mask = positions_BT[:, None, :, None] >= torch.arange(cache.max_len, device=device)

        def rotate(x: torch.Tensor) -> torch.Tensor:
            pairs = torch.complex(*x.float().chunk(2, -1)) * turn
            return torch.cat((pairs.real, pairs.imag), -1).to(x.dtype)

        h = F.embedding(tokens_BT, w["model.embed_tokens.weight"])
        for number in range(c.num_layers):
            p = f"model.layers.{number}"
            x = F.rms_norm(h, h.shape[-1:], w[f"{p}.input_layernorm.weight"], c.rms_norm_eps)
            fused = torch.cat([w[f"{p}.self_attn.{n}_proj.weight"] for n in "qkv"])
            biases = [
                w[f"{p}.self_attn.{n}_proj.bias"]
                for n in "qkv"
                if f"{p}.self_attn.{n}_proj.bias" in w
            ]
            qkv = F.linear(x, fused, torch.cat(biases) if biases else None)
            qkv = qkv.view(batch, length, -1, c.head_dim).transpose(1, 2)
            q, k, v = qkv.split(heads, dim=1)
            keys, values = cache.update(number, rotate(k), v, positions_BT)
            out = F.scaled_dot_product_attention(
                rotate(q), keys, values, attn_mask=mask, enable_gqa=True
            )
            out = out.nan_to_num(0.0).transpose(1, 2).reshape(batch, length, -1)
            h = h + F.linear(
                out, w[f"{p}.self_attn.o_proj.weight"], w.get(f"{p}.self_attn.o_proj.bias")
            )
            x = F.rms_norm(
                h, h.shape[-1:], w[f"{p}.post_attention_layernorm.weight"], c.rms_norm_eps
            )
            gate, up = (
                F.linear(x, w[f"{p}.mlp.{n}_proj.weight"], w.get(f"{p}.mlp.{n}_proj.bias"))
                for n in ("gate", "up")
            )
            h = h + F.linear(
                F.silu(gate) * up,
                w[f"{p}.mlp.down_proj.weight"],
                w.get(f"{p}.mlp.down_proj.bias"),
            )
        h = F.rms_norm(h, h.shape[-1:], w["model.norm.weight"], c.rms_norm_eps)
        head = "model.embed_tokens" if c.tie_word_embeddings else "lm_head"
        return F.linear(h, w[f"{head}.weight"])


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
