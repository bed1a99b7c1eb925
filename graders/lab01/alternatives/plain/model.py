"""The forward as small functions over one layer's weights; the given parts as in the stub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
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
        """As the solution."""
        w, c = self.weights, self.config
        if positions_BT is None:
            row = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
            positions_BT = row[None].repeat(tokens_BT.shape[0], 1)
        if cache is None:
            cache = self.new_cache(tokens_BT.shape[0], tokens_BT.shape[1])
        tables = rope_tables(positions_BT, c.head_dim, c.rope_theta)
        hidden = w["model.embed_tokens.weight"][tokens_BT]
        for number in range(c.num_layers):
            prefix = f"model.layers.{number}."
            layer = {
                name.removeprefix(prefix): value
                for name, value in w.items()
                if name.startswith(prefix)
            }
            normed = rms_norm(hidden, layer["input_layernorm.weight"], c.rms_norm_eps)
            q, k, v = (
                _project(layer, f"self_attn.{n}_proj", normed)
                .unflatten(-1, (-1, c.head_dim))
                .permute(0, 2, 1, 3)
                for n in "qkv"
            )
            q, k = apply_rope(q, *tables), apply_rope(k, *tables)
            keys, values = cache.update(number, k, v, positions_BT)
            mixed = attend(q, keys, values, positions_BT)
            mixed = mixed.permute(0, 2, 1, 3).flatten(2)
            hidden = hidden + _project(layer, "self_attn.o_proj", mixed)
            normed = rms_norm(hidden, layer["post_attention_layernorm.weight"], c.rms_norm_eps)
            gate = _project(layer, "mlp.gate_proj", normed)
            wide = gate * torch.sigmoid(gate) * _project(layer, "mlp.up_proj", normed)
            hidden = hidden + _project(layer, "mlp.down_proj", wide)
        hidden = rms_norm(hidden, w["model.norm.weight"], c.rms_norm_eps)
        return hidden @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def _project(layer: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    """x W^T, and the bias where the checkpoint has one."""
    out = x @ layer[f"{name}.weight"].T
    return out + layer[f"{name}.bias"] if f"{name}.bias" in layer else out


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
