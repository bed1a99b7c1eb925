"""A small engine in the oracle: what lab 02's predictions are measured against.

Llama-shaped, random weights, one GPU. It is plain on purpose: every tensor that a configuration
implies is allocated once and used, nothing else is, so that predictions can be compared within
percents.

Axes: B batch, T tokens, S cache slots, K KV heads, G query heads per KV head, D head_dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from labs.common.models import ModelConfig


class Engine:
    """Weights and a cache for ``batch`` requests of ``context`` tokens, all in bf16."""

    def __init__(self, config: ModelConfig, batch: int, context: int, device: str) -> None:
        """Allocate. The configuration must be dense GQA with RMSNorm and a gated MLP."""
        c, self.config, self.batch, self.device = config, config, batch, device

        def weight(*shape: int) -> torch.Tensor:
            # Drawn in place: a copy in fp32 would be there in the peak.
            out = torch.empty(shape, dtype=torch.bfloat16, device=device)
            return out.normal_(std=shape[-1] ** -0.5) if len(shape) > 1 else out.fill_(1.0)

        heads = c.num_attention_heads + 2 * c.num_kv_heads
        self.embedding = weight(c.vocab_size, c.hidden_size)
        self.head = self.embedding if c.tie_word_embeddings else weight(*self.embedding.shape)
        self.final_norm = weight(c.hidden_size)
        self.layers = [
            {
                "norm_1": weight(c.hidden_size),
                "norm_2": weight(c.hidden_size),
                "qkv": weight(heads * c.head_dim, c.hidden_size),
                "out": weight(c.hidden_size, c.num_attention_heads * c.head_dim),
                "gate_up": weight(2 * c.intermediate_size, c.hidden_size),
                "down": weight(c.hidden_size, c.intermediate_size),
            }
            for _ in range(c.num_layers)
        ]
        shape = (c.num_layers, batch, c.num_kv_heads, context, c.head_dim)
        self.keys = torch.zeros(shape, dtype=torch.bfloat16, device=device)
        self.values = torch.zeros_like(self.keys)

    def _split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        c = self.config
        kv = c.num_kv_heads * c.head_dim
        return qkv.split([c.num_attention_heads * c.head_dim, kv, kv], dim=-1)

    def _mlp(self, h: torch.Tensor, layer: dict[str, torch.Tensor]) -> None:
        x = F.rms_norm(h, h.shape[-1:], layer["norm_2"])
        gate, up = (x @ layer["gate_up"].T).chunk(2, dim=-1)
        product = F.silu(gate, inplace=True) * up
        del gate, up
        h.addmm_(product, layer["down"].T)

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """fp32 logits of the last hidden states ``[B, hidden_size]``."""
        out = torch.empty(len(h), len(self.head), device=self.device)
        for start in range(0, len(h), 64):  # rows are converted in small pieces
            out[start : start + 64] = h[start : start + 64] @ self.head.T
        return out

    @torch.inference_mode()
    def prefill(self, tokens: int) -> torch.Tensor:
        """One prompt of ``tokens`` random tokens through all layers; returns the hidden states.

        The first slots of the first request's cache take in what fits.
        """
        c = self.config
        ids = torch.randint(c.vocab_size, (tokens,), device=self.device)
        h = F.embedding(ids, self.embedding)
        kept = min(tokens, self.keys.shape[3])
        for number, layer in enumerate(self.layers):
            x = F.rms_norm(h, h.shape[-1:], layer["norm_1"])
            q, k, v = (
                part.view(1, tokens, -1, c.head_dim).transpose(1, 2)
                for part in self._split(x @ layer["qkv"].T)
            )
            self.keys[number, 0, :, :kept] = k[0, :, :kept]
            self.values[number, 0, :, :kept] = v[0, :, :kept]
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            del q, k, v, x
            h.addmm_(out.transpose(1, 2).reshape(tokens, -1), layer["out"].T)
            del out
            self._mlp(h, layer)
        return F.rms_norm(h[-1:], h.shape[-1:], self.final_norm)

    @torch.inference_mode()
    def decode(self, ids_B: torch.Tensor) -> torch.Tensor:
        """One step: each request sees its whole cache, the last slot is written anew.

        Returns:
            The next token of each request, ``[B]``.
        """
        c = self.config
        group = c.num_attention_heads // c.num_kv_heads
        h = F.embedding(ids_B, self.embedding)
        for number, layer in enumerate(self.layers):
            x = F.rms_norm(h, h.shape[-1:], layer["norm_1"])
            q, k, v = (
                part.view(self.batch, c.num_kv_heads, -1, c.head_dim)
                for part in self._split(x @ layer["qkv"].T)
            )
            keys, values = self.keys[number], self.values[number]
            keys[:, :, -1:], values[:, :, -1:] = k, v
            # One product for each KV head, its queries together: the cache is read once.
            scores_BKGS = q.view(self.batch, c.num_kv_heads, group, c.head_dim) @ keys.mT
            weights = torch.softmax(scores_BKGS * c.head_dim**-0.5, dim=-1)
            out = (weights @ values).reshape(self.batch, -1)
            h.addmm_(out, layer["out"].T)
            self._mlp(h, layer)
        return self.logits(F.rms_norm(h, h.shape[-1:], self.final_norm)).argmax(dim=-1)
