"""Greedy decode at the speed of memory: static buffers, fused projections, one CUDA graph.

Axes: B batch, T tokens, S cache slots, H query heads, K key-value heads, D head_dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .model import Llama
from .rope import rope_tables


class FastDecoder:
    """Decodes a batch of prompts of one length with a preallocated cache.

    Nothing is copied to the host between two tokens.
    """

    def __init__(self, model: Llama, batch: int, max_len: int) -> None:
        """Allocate every buffer for ``batch`` sequences of up to ``max_len`` tokens."""
        ### BEGIN SOLUTION
        c, w = model.config, model.weights
        self.model, self.batch, self.max_len = model, batch, max_len
        device = model.device
        # Fused weights: three reads of the same activations become one kernel, twice a layer.
        self.qkv, self.gate_up = [], []
        for layer in range(c.num_layers):
            p = f"model.layers.{layer}"
            self.qkv.append(torch.cat([w[f"{p}.self_attn.{n}_proj.weight"] for n in "qkv"]))
            self.gate_up.append(torch.cat([w[f"{p}.mlp.{n}_proj.weight"] for n in ("gate", "up")]))
        cos, sin = rope_tables(torch.arange(max_len, device=device), c.head_dim, c.rope_theta)
        self.cos, self.sin = cos.to(model.dtype), sin.to(model.dtype)
        self.cache = model.new_cache(batch, max_len)
        self.slots = torch.arange(max_len, device=device)
        self.token = torch.zeros(batch, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self._length = 0  # the host's copy of position
        self.graph: torch.cuda.CUDAGraph | None = None
        ### END SOLUTION

    def _step(self) -> None:
        """One token for every sequence; reads and writes the static buffers only."""
        ### BEGIN SOLUTION
        c, w = self.model.config, self.model.weights
        batch, half = self.batch, c.head_dim // 2
        kv_size = c.num_kv_heads * c.head_dim
        sizes = [c.num_attention_heads * c.head_dim, kv_size, kv_size]
        cos = self.cos.index_select(0, self.position)
        sin = self.sin.index_select(0, self.position)
        visible = (self.slots <= self.position)[None, None, None]

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.rms_norm(x, x.shape[-1:], w[f"{name}.weight"], c.rms_norm_eps)

        def rotate(x: torch.Tensor) -> torch.Tensor:
            turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
            return torch.addcmul(x * cos, turned, sin)

        h = F.embedding(self.token, w["model.embed_tokens.weight"])
        for layer in range(c.num_layers):
            p = f"model.layers.{layer}"
            x = norm(h, f"{p}.input_layernorm")
            q, k, v = F.linear(x, self.qkv[layer]).split(sizes, dim=-1)
            q = rotate(q.view(batch, c.num_attention_heads, 1, c.head_dim))
            k = rotate(k.view(batch, c.num_kv_heads, 1, c.head_dim))
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            keys.index_copy_(2, self.position, k)
            values.index_copy_(2, self.position, v.view(batch, c.num_kv_heads, 1, c.head_dim))
            out = F.scaled_dot_product_attention(
                q, keys, values, attn_mask=visible, enable_gqa=True
            )
            h = h + F.linear(out.reshape(batch, -1), w[f"{p}.self_attn.o_proj.weight"])
            x = norm(h, f"{p}.post_attention_layernorm")
            gate, up = F.linear(x, self.gate_up[layer]).chunk(2, dim=-1)
            h = h + F.linear(F.silu(gate) * up, w[f"{p}.mlp.down_proj.weight"])
        head = "model.embed_tokens" if c.tie_word_embeddings else "lm_head"
        self.token.copy_(F.linear(norm(h, "model.norm"), w[f"{head}.weight"]).argmax(dim=-1))
        self.position.add_(1)
        ### END SOLUTION

    @torch.inference_mode()
    def prefill(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Start afresh with prompts of one length; return the first greedy token of each, ``[B]``.

        Raises:
            ValueError: another batch size, or prompts longer than the cache.
        """
        ### BEGIN SOLUTION
        batch, length = tokens_BT.shape
        if batch != self.batch or length > self.max_len:
            raise ValueError(f"prompts [{batch}, {length}] do not fit the buffers")
        logits = self.model.forward(tokens_BT.to(self.model.device), None, self.cache)
        self.token.copy_(logits[:, -1].argmax(dim=-1))
        self.position.fill_(length)
        self._length = length
        return self.token.clone()
        ### END SOLUTION

    @torch.inference_mode()
    def decode(self, steps: int) -> torch.Tensor:
        """Greedily decode ``steps`` more tokens for every sequence.

        Returns:
            int64 ``[B, steps]``.

        Raises:
            ValueError: they do not fit the cache.
        """
        ### BEGIN SOLUTION
        start = self._length
        if start + steps > self.max_len:
            raise ValueError(f"{start} + {steps} tokens do not fit {self.max_len} slots")
        if self.token.is_cuda and self.graph is None:
            saved = self.token.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._step()  # lets libraries set themselves up outside the capture
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._step()
            self.token.copy_(saved)
            self.position.fill_(start)
        run = self.graph.replay if self.graph is not None else self._step
        made = []
        for _ in range(steps):
            run()
            made.append(self.token.clone())
        self._length = start + steps
        return torch.stack(made, dim=1)
        ### END SOLUTION
