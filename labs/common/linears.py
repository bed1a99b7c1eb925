"""The linear layers inside a Hugging Face model: what they read, and how to exchange them.

Quantizers leave embedding, norms and head alone; what they replace are the linear layers of the
blocks. A layer has the name of its module, such as ``model.layers.0.self_attn.q_proj``; its weight
is [out, in] and named like it, with ``.weight`` at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

#: In a Llama's block: a norm, and the layers that read it.
READERS: dict[str, tuple[str, ...]] = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}

#: Makes a layer's outputs [tokens, out] of its name and its inputs [tokens, in].
Multiply = Callable[[str, torch.Tensor], torch.Tensor]


def inner_linears(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """The linear layers of the blocks by name, in the model's order; not the head."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    }


@torch.no_grad()
def linear_inputs(model: Any, tokens: torch.Tensor, batch: int = 8) -> dict[str, torch.Tensor]:
    """What each inner linear layer reads while ``model`` reads ``tokens``.

    Args:
        model: a Hugging Face model.
        tokens: int64 [rows, length].
        batch: rows at a time.

    Returns:
        fp32 [rows * length, in] by the layer's name, tokens in order. Layers that read the same
        tensor share it.
    """
    kept: dict[str, list[torch.Tensor]] = {}
    hooks = []
    for name, module in inner_linears(model).items():

        def keep(_: Any, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            kept.setdefault(name, []).append(inputs[0])

        hooks.append(module.register_forward_pre_hook(keep))
    try:
        for rows in tokens.split(batch):
            model(rows)
    finally:
        for hook in hooks:
            hook.remove()
    joined: dict[tuple[int, ...], torch.Tensor] = {}  # by the parts: so that readers share
    found = {}
    for name, parts in kept.items():
        key = tuple(map(id, parts))
        if key not in joined:
            joined[key] = torch.cat([part.flatten(0, -2).float() for part in parts])
        found[name] = joined[key]
    return found


@contextlib.contextmanager
def exchanged(
    model: Any, weights: Mapping[str, torch.Tensor], multiply: Multiply | None = None
) -> Iterator[Any]:
    """Within the block ``model`` has other weights, and its inner layers another product.

    Args:
        model: a Hugging Face model; as it was before when the block ends.
        weights: a whole state dict.
        multiply: called in place of each inner layer; without one they multiply as ever. Layers
            with a bias are not meant.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = inner_linears(model)
    try:
        model.load_state_dict(dict(weights))
        for name, module in layers.items() if multiply else ():

            def forward(x: torch.Tensor, name: str = name) -> torch.Tensor:
                assert multiply is not None
                return multiply(name, x.flatten(0, -2)).view(*x.shape[:-1], -1).to(x.dtype)

            module.forward = forward  # type: ignore[method-assign, assignment]
        yield model
    finally:
        for module in layers.values():
            module.__dict__.pop("forward", None)
        model.load_state_dict(before)
