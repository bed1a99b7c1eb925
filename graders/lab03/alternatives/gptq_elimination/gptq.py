"""GPTQ by elimination in the whole inverse, in fp64: no blocks, no Cholesky factor."""

from __future__ import annotations

import json

import safetensors.torch
import torch

from .packing import pack_gptq, unpack_gptq

PACKED = ("qweight", "qzeros", "scales", "g_idx")


def hessian(batches):
    """One matrix product over all tokens."""
    parts = [b.double() for b in batches]
    x = torch.cat(parts) if parts else torch.zeros(0, 1)
    if not len(x):
        raise ValueError("nothing to calibrate on")
    return torch.einsum("ti,tj->ij", x, x).mul(2 / len(x)).float()


def _damped(h, damping):
    h = h.double().clone()
    dead = torch.nonzero(h.diagonal() == 0).flatten()
    h[dead, dead] = 1
    return h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)


def inverse_factor(h, damping=0.01):
    """From the eigenvectors, by QR."""
    values, vectors = torch.linalg.eigh(_damped(h, damping))
    if values[0] <= 0:
        raise ValueError("not positive definite")
    _, r = torch.linalg.qr((vectors / values.sqrt()).T)
    return (r * r.diagonal().sign()[:, None]).triu().float()


def _grid(group, bits, symmetric):
    top = 2**bits - 1
    if symmetric:
        scale = group.abs().max(1).values * 2 / top
        scale[scale == 0] = 1
        return scale, torch.full_like(scale, 2 ** (bits - 1))
    low, high = group.min(1).values.clamp(max=0), group.max(1).values.clamp(min=0)
    scale = (high - low) / top
    scale[scale == 0] = 1
    return scale, torch.round(-low / scale)


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
    """Column by column, each followed by an elimination."""
    out, columns = w.shape
    if group_size < 1 or columns % group_size or h.shape != (columns, columns) or block_size < 1:
        raise ValueError("sizes do not fit")
    inverse_factor(h, damping)
    inverse = torch.linalg.inv(_damped(h, damping))
    rest = w.double().clone()
    rest[:, h.diagonal() == 0] = 0
    activity = h.diagonal().tolist()
    order = list(range(columns))
    if act_order:
        order.sort(key=lambda j: -activity[j])
    groups = columns // group_size
    scales = torch.empty(out, groups, dtype=torch.float64)
    zeros, codes = torch.empty_like(scales), torch.empty_like(rest)
    g_idx = torch.empty(columns, dtype=torch.int32)
    if static_groups:
        for g in range(groups):
            part = rest[:, g * group_size : (g + 1) * group_size]
            scales[:, g], zeros[:, g] = _grid(part, bits, symmetric)
    done = []
    for position, j in enumerate(order):
        g = (j if static_groups else position) // group_size
        if not static_groups and position % group_size == 0:
            part = rest[:, order[position : position + group_size]]
            scales[:, g], zeros[:, g] = _grid(part, bits, symmetric)
        g_idx[j] = g
        code = torch.clamp(torch.round(rest[:, j] / scales[:, g]) + zeros[:, g], 0, 2**bits - 1)
        codes[:, j] = code
        lost = rest[:, j] - (code - zeros[:, g]) * scales[:, g]
        row = inverse[j] / inverse[j, j]
        done.append(j)
        row_later = row.clone()
        row_later[done] = 0
        rest = rest - torch.outer(lost, row_later)
        inverse = inverse - torch.outer(inverse[:, j], row)
    return codes.to(torch.uint8), scales.float(), zeros.to(torch.uint8), g_idx


def gptq_dequantize(codes, scales, zeros, g_idx):
    """One group at a time."""
    out = torch.empty(codes.shape)
    for g in range(scales.shape[1]):
        mine = g_idx == g
        out[:, mine] = (codes[:, mine].float() - zeros[:, g, None].float()) * scales[
            :, g, None
        ].float()
    return out


def checkpoint_files(
    layers,
    others,
    model_config,
    *,
    bits=4,
    group_size=128,
    symmetric=True,
    act_order=False,
    damping=0.01,
    static_groups=False,
):
    """Keys in another order."""
    tensors = {}
    for name, layer in layers.items():
        if name + ".weight" in others or bits != 4:
            raise ValueError(name)
        for kind, tensor in pack_gptq(*layer).items():
            tensors[".".join((name, kind))] = tensor
    for name, tensor in others.items():
        floating = tensor.dtype.is_floating_point
        tensors[name] = tensor.to(torch.float16 if floating else tensor.dtype).contiguous()
    settings = dict(
        quant_method="gptq", checkpoint_format="gptq", bits=bits, group_size=group_size,
        desc_act=act_order, static_groups=static_groups, sym=symmetric, damp_percent=damping,
        true_sequential=False, model_name_or_path=None, model_file_base_name="model",
        is_marlin_format=False,
    )  # fmt: skip
    config = dict(model_config)
    config["quantization_config"] = settings
    config["torch_dtype"] = "float16"
    return {
        "config.json": json.dumps(config).encode("utf-8"),
        "quantize_config.json": json.dumps(settings).encode("utf-8"),
        "model.safetensors": safetensors.torch.save(tensors, metadata={"format": "pt"}),
    }


def read_layers(data):
    """Grouped by the name before the last dot."""
    found = {}
    for key, tensor in safetensors.torch.load(data).items():
        name, _, kind = key.rpartition(".")
        found.setdefault(name, {})[kind] = tensor
    return {
        name: unpack_gptq(parts)
        for name, parts in sorted(found.items())
        if set(PACKED) <= set(parts)
    }
