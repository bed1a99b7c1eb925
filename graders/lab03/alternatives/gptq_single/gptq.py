"""GPTQ as the libraries write it: single precision, a running mean, a mirrored Cholesky factor."""

from __future__ import annotations

import json
import math

import torch
from safetensors.torch import load, save

from .absmax import group_dequantize, group_quantize
from .packing import pack_gptq, unpack_gptq


def hessian(batches):
    """A running mean."""
    h, seen = None, 0
    for batch in batches:
        n = len(batch)
        if not n:
            continue
        x = batch.to(torch.float32) * math.sqrt(2 / (seen + n))
        h = x.T @ x if h is None else h * (seen / (seen + n)) + x.T @ x
        seen += n
    if h is None:
        raise ValueError("no tokens")
    return h


def inverse_factor(h, damping=0.01):
    """Cholesky of H with rows and columns reversed: its inverse, reversed again, is upper."""
    h = h.float().clone()
    i = torch.arange(len(h))
    h[i, i] += (h.diagonal() == 0).float()
    h[i, i] += damping * h.diagonal().mean()
    try:
        mirrored = torch.linalg.cholesky(h.flip(0, 1))
    except torch.linalg.LinAlgError as error:
        raise ValueError(str(error)) from error
    eye = torch.eye(len(h))
    return torch.linalg.solve_triangular(mirrored, eye, upper=False).flip(0, 1).triu()


def gptq_quantize(
    w,
    h,
    bits=4,
    group_size=128,
    symmetric=True,
    act_order=False,
    damping=0.01,
    block_size=128,
    static_groups=False,
):
    """Errors reach the next ``block_size`` columns at once, the others when a block ends."""
    columns = w.shape[1]
    if tuple(h.shape) != (columns, columns) or block_size < 1 or group_size < 1:
        raise ValueError("bad sizes")
    if columns % group_size:
        raise ValueError("groups do not divide the columns")
    perm = torch.arange(columns)
    if act_order:
        perm = h.diagonal().argsort(descending=True, stable=True)
    inverse = torch.empty_like(perm)
    inverse[perm] = torch.arange(columns)
    w = w.float().clone()
    w[:, h.diagonal() == 0] = 0
    _, scales, zeros = group_quantize(w, bits, group_size, symmetric)
    u = inverse_factor(h[perm, :][:, perm], damping)
    w = w[:, perm]
    q = torch.zeros_like(w)
    pending = torch.zeros_like(w)  # errors over U's diagonal, not yet passed on beyond the block
    block_start = 0
    for j in range(columns):
        if j - block_start == block_size:
            w[:, j:] -= pending[:, block_start:j] @ u[block_start:j, j:]
            block_start = j
        block_end = min(block_start + block_size, columns)
        g = int(perm[j] if static_groups else j) // group_size
        if not static_groups and j % group_size == 0:
            now = w[:, j : j + group_size].clone()
            late = max(0, j + group_size - block_end)
            if late:  # the group goes on in the next block, which has not heard of these errors
                now[:, -late:] -= pending[:, block_start:j] @ u[block_start:j, block_end:][:, :late]
            _, scale, zero = group_quantize(now, bits, group_size, symmetric)
            scales[:, g : g + 1], zeros[:, g : g + 1] = scale, zero
        s, z = scales[:, g], zeros[:, g].float()
        q[:, j] = ((w[:, j] / s).round() + z).clamp(min=0, max=2**bits - 1)
        pending[:, j] = (w[:, j] - s * (q[:, j] - z)) / u[j, j]
        w[:, j + 1 : block_end] -= torch.outer(pending[:, j], u[j, j + 1 : block_end])
    place = torch.arange(columns) if static_groups else inverse
    g_idx = torch.div(place, group_size, rounding_mode="floor").int()
    return q[:, inverse].byte(), scales, zeros, g_idx


def gptq_dequantize(codes, scales, zeros, g_idx):
    """Every column as a group of its own."""
    g = g_idx.long()
    return group_dequantize(codes, scales[:, g], zeros[:, g])


def checkpoint_files(layers, others, model_config, **settings):
    """Keyword arguments by dict."""
    given = {"bits": 4, "group_size": 128, "symmetric": True, "act_order": False}
    given |= {"damping": 0.01, "static_groups": False, **settings}
    if given["bits"] != 4 or any(f"{name}.weight" in others for name in layers):
        raise ValueError("refused")
    told = {
        "bits": 4, "group_size": given["group_size"], "damp_percent": given["damping"],
        "desc_act": given["act_order"], "static_groups": given["static_groups"],
        "sym": given["symmetric"], "true_sequential": False, "model_name_or_path": None,
        "model_file_base_name": "model", "is_marlin_format": False, "quant_method": "gptq",
        "checkpoint_format": "gptq",
    }  # fmt: skip
    out = {
        n: t.to(torch.half).clone(memory_format=torch.contiguous_format)
        if torch.is_floating_point(t)
        else t
        for n, t in others.items()
    }
    for n, layer in layers.items():
        out |= {f"{n}.{k}": t for k, t in pack_gptq(*layer).items()}
    config = model_config | {"torch_dtype": "float16", "quantization_config": told}
    return {
        "model.safetensors": save(out, {"format": "pt"}),
        "quantize_config.json": json.dumps(told, sort_keys=True).encode(),
        "config.json": json.dumps(config, sort_keys=True).encode(),
    }


def read_layers(data):
    """By the names that all four tensors share."""
    tensors = load(data)
    kinds = ("qweight", "qzeros", "scales", "g_idx")
    sets = [{k[: -len(s) - 1] for k in tensors if k.endswith("." + s)} for s in kinds]
    names = sorted(set.intersection(*sets))
    return {n: unpack_gptq({s: tensors[f"{n}.{s}"] for s in kinds}) for n in names}
