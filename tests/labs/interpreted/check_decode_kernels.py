"""Lab 01's Triton kernels against torch. Run with TRITON_INTERPRET=1, by test_triton_kernels.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from solutions.lab01_token_generation.decode_kernels import attend_one, matvec
from solutions.lab01_token_generation.rope import apply_rope, rope_tables


@pytest.mark.parametrize("rows, channels", [(7, 36), (48, 64), (96, 128), (3, 9000)])
def test_matvec(rows: int, channels: int) -> None:
    torch.manual_seed(rows)
    w, x, more = torch.randn(rows, channels), torch.randn(channels), torch.randn(rows)
    gain = torch.rand(channels) + 0.5
    normed = F.rms_norm(x, (channels,), gain, 1e-2)
    close = {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(matvec(w, x), w @ x, **close)
    torch.testing.assert_close(matvec(w, x, gain=gain, eps=1e-2), w @ normed, **close)
    torch.testing.assert_close(matvec(w, x, residual=more), w @ x + more, **close)
    assert matvec(w, x, dtype=torch.float64).dtype is torch.float64


@pytest.mark.parametrize("rows, channels", [(6, 36), (96, 128)])
def test_gated_matvec(rows: int, channels: int) -> None:
    torch.manual_seed(rows)
    w, x = torch.randn(2 * rows, channels), torch.randn(channels)
    gain = torch.rand(channels) + 0.5
    gate, up = (w @ F.rms_norm(x, (channels,), gain, 1e-5)).chunk(2)
    out = matvec(w, x, gain=gain, eps=1e-5, gated=True)
    torch.testing.assert_close(out, F.silu(gate) * up, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("heads, kv_heads, head_dim", [(6, 2, 16), (4, 4, 32), (20, 1, 16)])
def test_attend_one(heads: int, kv_heads: int, head_dim: int) -> None:
    torch.manual_seed(heads)
    slots = 70
    cos, sin = rope_tables(torch.arange(slots), head_dim)
    keys, values = torch.zeros(2, kv_heads, slots, head_dim)
    expected_keys, expected_values = torch.zeros(2, 1, kv_heads, slots, head_dim)
    for p in range(slots):
        qkv = torch.randn((heads + 2 * kv_heads) * head_dim)
        out = attend_one(qkv, cos, sin, torch.tensor([p]), keys, values)
        q, k, v = qkv.view(-1, head_dim).split([heads, kv_heads, kv_heads])
        here = (cos[p : p + 1], sin[p : p + 1])
        q, k = apply_rope(q[None, :, None], *here), apply_rope(k[None, :, None], *here)
        expected_keys[:, :, p], expected_values[:, :, p] = k[:, :, 0], v
        seen = expected_keys[:, :, : p + 1], expected_values[:, :, : p + 1]
        expected = F.scaled_dot_product_attention(q, *seen, enable_gqa=True)
        torch.testing.assert_close(out, expected.reshape(-1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(keys[None], expected_keys)
        torch.testing.assert_close(values[None], expected_values)
