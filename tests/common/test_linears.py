"""The inner linear layers of the shipped target: their inputs, and exchanged weights."""

from __future__ import annotations

import pytest
import torch

from labs.common.linears import READERS, exchanged, inner_linears, linear_inputs
from labs.common.tiny_models import load_tiny

TOKENS = torch.randint(3, 2048, (3, 20), generator=torch.Generator().manual_seed(0))


def test_inputs_are_what_the_layers_read() -> None:
    model, _ = load_tiny("target")
    inputs = linear_inputs(model, TOKENS, batch=2)
    layers = inner_linears(model)
    assert list(inputs) == list(layers) and len(layers) == 7 * 6
    for name, x in inputs.items():
        assert x.shape == (60, layers[name].in_features) and x.dtype is torch.float32
    for readers in READERS.values():  # they share one tensor
        assert len({id(inputs[f"model.layers.1.{reader}"]) for reader in readers}) == 1
    with torch.no_grad():
        hidden = model.model.embed_tokens(TOKENS)
        first = model.model.layers[0].input_layernorm(hidden).flatten(0, 1)
    torch.testing.assert_close(inputs["model.layers.0.self_attn.k_proj"], first)


@torch.no_grad()
def test_exchanged_and_put_back() -> None:
    model, _ = load_tiny("target")
    before = model(TOKENS).logits
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: list[str] = []

    def multiply(name: str, x: torch.Tensor) -> torch.Tensor:
        seen.append(name)
        return x @ weights[f"{name}.weight"].T

    with exchanged(model, weights, multiply):
        torch.testing.assert_close(model(TOKENS).logits, before, rtol=1e-3, atol=1e-3)
    assert sorted(seen) == sorted(inner_linears(model))
    changed = weights | {"model.norm.weight": weights["model.norm.weight"] * 2}
    with pytest.raises(ZeroDivisionError), exchanged(model, changed):
        assert not torch.allclose(model(TOKENS).logits, before)
        raise ZeroDivisionError
    assert torch.equal(model(TOKENS).logits, before)
