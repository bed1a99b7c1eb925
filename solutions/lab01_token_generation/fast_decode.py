"""Greedy decode at the speed of memory: static buffers, fused kernels, one CUDA graph.

Axes: B batch, T tokens, S cache slots, C hidden size, K key-value heads, G query heads per
key-value head, D head_dim, V vocabulary.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
from importlib.util import find_spec

import torch
import torch.nn.functional as F

from .model import Llama
from .rope import rope_tables


class FastDecoder:
    """Decodes a batch of prompts of one length with a preallocated cache.

    Nothing is copied to the host between two tokens.
    """

    def __init__(
        self,
        model: Llama,
        batch: int,
        max_len: int,
        *,
        graph: bool = True,
        compiled: bool = True,
        kernels: bool = True,
        overlap: bool = True,
    ) -> None:
        """Allocate every buffer for ``batch`` sequences of up to ``max_len`` tokens.

        The switches are there to measure what each thing is worth: the CUDA graph, the compiler,
        for one sequence kernels of our own (`decode_kernels`) in place of compiled ones, and
        the overlap of each of these with the next. The grader leaves all at their defaults. None
        is used where the weights are not on a CUDA device.
        """
        ### BEGIN SOLUTION
        c, w = model.config, model.weights
        if any(name.endswith(".bias") for name in w):
            raise ValueError("FastDecoder has no biases, and this checkpoint does")
        self.model, self.batch, self.max_len = model, batch, max_len
        device, dtype = model.device, model.dtype
        # Fused weights: three reads of the same activations become one kernel, twice a layer.
        self.layers = []
        for layer in range(c.num_layers):
            p = f"model.layers.{layer}"
            self.layers.append({
                "norm": w[f"{p}.input_layernorm.weight"],
                "qkv": torch.cat([w[f"{p}.self_attn.{n}_proj.weight"] for n in "qkv"]),
                "out": w[f"{p}.self_attn.o_proj.weight"],
                "mlp_norm": w[f"{p}.post_attention_layernorm.weight"],
                "gate_up": torch.cat([w[f"{p}.mlp.{n}_proj.weight"] for n in ("gate", "up")]),
                "down": w[f"{p}.mlp.down_proj.weight"],
            })  # fmt: skip
        self.head = w["model.embed_tokens.weight" if c.tie_word_embeddings else "lm_head.weight"]
        cos, sin = rope_tables(torch.arange(max_len, device=device), c.head_dim, c.rope_theta)
        self.cos, self.sin = cos.to(dtype), sin.to(dtype)
        # Attention kernels want a mask whose rows are aligned; nobody sees the slots beyond.
        slots = -(-max_len // 16) * 16
        shape = (batch, c.num_kv_heads, slots, c.head_dim)
        # One tensor a layer: a write into a view of a larger one could make a compiler copy it all.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in self.layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in self.layers]
        self.slots = torch.arange(slots, device=device)
        self.open = torch.zeros(slots, dtype=dtype, device=device)
        self.token = torch.zeros(batch, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        # made[:, p] is the token at position p: steps write their results side by side.
        self.made = torch.zeros(batch, max_len + 1, dtype=torch.long, device=device)
        self._length = 0  # the host's copy of position
        self._run_layer, self._run_head = self._layer, self._head
        self._one_step = self._step
        if device.type == "cuda":
            even = c.head_dim >= 16 and c.head_dim & (c.head_dim - 1) == 0
            alone = kernels and batch == 1 and even and self._can_compile()
            self._one_step = self._step_alone if alone else self._step
            # From Hopper on a kernel may begin while the one before it ends.
            self.overlap = overlap and torch.cuda.get_device_capability(device) >= (9, 0)
            self._prepare(graph, compiled and not alone)
        ### END SOLUTION

    @torch.inference_mode()
    def _prepare(self, graph: bool, compiled: bool) -> None:
        """Compile, warm up and capture a step, so that no decode pays for it. CUDA only."""
        ### BEGIN SOLUTION
        if compiled and self._can_compile():
            # With coordinate descent a product with one vector becomes a reduction of our own
            # shape instead of a library call, and its tile is searched for. One layer is compiled,
            # not the whole step: the second layer finds the first one's kernels.
            options = {"coordinate_descent_tuning": True}
            self._run_layer, self._run_head = (
                torch.compile(function, fullgraph=True, dynamic=False, options=options)
                for function in (self._layer, self._head)
            )
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            try:
                self._one_step()  # compilers and libraries set themselves up outside the capture
            except Exception as error:  # of Triton, of the compiler, of what they call
                if self._one_step == self._step and self._run_layer is self._layer:
                    raise
                cause = f"{type(error).__name__}: {error}".partition("\n")[0]
                warnings.warn(f"going on with plain kernels: {cause}", stacklevel=2)
                self._one_step, self._run_layer, self._run_head = (
                    self._step, self._layer, self._head,
                )  # fmt: skip
                self.position.zero_()
                self._one_step()
            self.position.zero_()
        torch.cuda.current_stream().wait_stream(stream)
        if graph:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                self._one_step()  # recorded, not run
            self._one_step = captured.replay
        ### END SOLUTION

    @staticmethod
    def _can_compile() -> bool:
        """Whether what torch.compile needs for CUDA is here: Triton, and a C compiler."""
        ### BEGIN SOLUTION
        compilers = (os.environ.get("CC") or "cc", "gcc", "clang")
        return find_spec("triton") is not None and any(map(shutil.which, compilers))
        ### END SOLUTION

    @staticmethod
    def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotary embedding in the half-split layout; ``cos`` and ``sin`` broadcast to ``x``."""
        ### BEGIN SOLUTION
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin
        ### END SOLUTION

    @staticmethod
    def _layer(
        h_BC: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor,
        position: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        w: dict[str, torch.Tensor],
        eps: float,
    ) -> torch.Tensor:
        """One layer for one token of every sequence; writes the token's key and value."""
        ### BEGIN SOLUTION
        batch, kv_heads, _, head_dim = keys.shape
        x = F.rms_norm(h_BC, h_BC.shape[-1:], w["norm"], eps)
        qkv = F.linear(x, w["qkv"]).view(batch, -1, head_dim)
        qk, v = qkv[:, :-kv_heads], qkv[:, -kv_heads:]
        qk = FastDecoder._rotate(qk, cos, sin)
        q, k = qk[:, :-kv_heads], qk[:, -kv_heads:]
        keys.index_copy_(2, position, k[:, :, None])
        values.index_copy_(2, position, v[:, :, None])
        # The heads of a group stand where the tokens of a prompt would: each key is read once for
        # all of them, and the cache is never expanded.
        q_BKGD = q.reshape(batch, kv_heads, -1, head_dim)
        out = F.scaled_dot_product_attention(q_BKGD, keys, values, attn_mask=mask)
        return FastDecoder._after_attention(h_BC, out.reshape(batch, -1), w, eps)
        ### END SOLUTION

    @staticmethod
    def _after_attention(
        h: torch.Tensor, out: torch.Tensor, w: dict[str, torch.Tensor], eps: float
    ) -> torch.Tensor:
        """The rest of a layer: output projection, norm, MLP, and both residuals."""
        ### BEGIN SOLUTION
        h = h + F.linear(out, w["out"])
        x = F.rms_norm(h, h.shape[-1:], w["mlp_norm"], eps)
        if len(x) == 1:
            # Two products with one vector and what follows them: one kernel for the compiler.
            gate, up = (F.linear(x, half) for half in w["gate_up"].chunk(2))
        else:
            gate, up = F.linear(x, w["gate_up"]).chunk(2, dim=-1)
        return h + F.linear(F.silu(gate) * up, w["down"])
        ### END SOLUTION

    @staticmethod
    def _head(
        h_BC: torch.Tensor, norm: torch.Tensor, head_VC: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """The greedy next token of every sequence, ``[B]``."""
        ### BEGIN SOLUTION
        return F.linear(F.rms_norm(h_BC, h_BC.shape[-1:], norm, eps), head_VC).argmax(dim=-1)
        ### END SOLUTION

    def _step(self) -> None:
        """One token for every sequence; reads and writes the static buffers only."""
        ### BEGIN SOLUTION
        c, w = self.model.config, self.model.weights
        cos = self.cos.index_select(0, self.position)
        sin = self.sin.index_select(0, self.position)
        mask = self.open.masked_fill(self.slots > self.position, float("-inf"))[None, None, None]
        h = F.embedding(self.token, w["model.embed_tokens.weight"])
        for layer, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            h = self._run_layer(
                h, cos, sin, mask, self.position, keys, values, layer, c.rms_norm_eps
            )
        norm, head = w["model.norm.weight"], self.head
        self._finish(self._run_head(h, norm, head, c.rms_norm_eps))

    def _finish(self, tokens_B: torch.Tensor) -> None:
        """Keep a step's tokens, and go on to the next position."""
        self.token.copy_(tokens_B)
        self.position.add_(1)
        self.made.index_copy_(1, self.position, self.token[:, None])
        ### END SOLUTION

    def _step_alone(self) -> None:
        """The same step for one sequence, in five kernels a layer."""
        ### BEGIN SOLUTION
        from .decode_kernels import attend_one, matvec

        eps, over = self.model.config.rms_norm_eps, self.overlap
        h = F.embedding(self.token, self.model.weights["model.embed_tokens.weight"])[0]
        for w, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            qkv = matvec(w["qkv"], h, gain=w["norm"], eps=eps, overlap=over)
            out = attend_one(
                qkv, self.cos, self.sin, self.position, keys[0], values[0], overlap=over
            )
            h = matvec(w["out"], out, residual=h, overlap=over)
            x = matvec(w["gate_up"], h, gain=w["mlp_norm"], eps=eps, gated=True, overlap=over)
            h = matvec(w["down"], x, residual=h, overlap=over)
        norm = self.model.weights["model.norm.weight"]
        logits = matvec(self.head, h, gain=norm, eps=eps, dtype=torch.float32, overlap=over)
        # One row is one block's work to torch, and slow: find the best of many parts first.
        best, index = logits.view(math.gcd(len(logits), 1024), -1).max(dim=-1)
        part = best.argmax(keepdim=True)
        self._finish(part * (len(logits) // len(best)) + index[part])
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
        c, w = self.model.config, self.model.weights
        heads = [c.num_attention_heads, c.num_kv_heads, c.num_kv_heads]
        h_BTC = F.embedding(tokens_BT.to(self.token.device), w["model.embed_tokens.weight"])
        cos, sin = self.cos[:length], self.sin[:length]
        for layer, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            x = F.rms_norm(h_BTC, h_BTC.shape[-1:], layer["norm"], c.rms_norm_eps)
            qkv = F.linear(x, layer["qkv"]).view(batch, length, -1, c.head_dim).transpose(1, 2)
            q, k, v = qkv.split(heads, dim=1)
            q, k = self._rotate(q, cos, sin), self._rotate(k, cos, sin)
            keys[:, :, :length], values[:, :, :length] = k, v
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            out = out.transpose(1, 2).reshape(batch, length, -1)
            h_BTC = self._after_attention(h_BTC, out, layer, c.rms_norm_eps)
        # The last position's logits alone: the others would be most of the work.
        norm = w["model.norm.weight"]
        self.token.copy_(self._head(h_BTC[:, -1], norm, self.head, c.rms_norm_eps))
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
        for _ in range(steps):
            self._one_step()
        self._length = start + steps
        return self.made[:, start + 1 : start + steps + 1].clone()
        ### END SOLUTION
