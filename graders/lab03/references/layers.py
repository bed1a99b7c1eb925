"""The layers that GPTQ and the libraries are compared on, and the error they are compared by."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import torch

from labs.common.linears import linear_inputs
from labs.common.perplexity import calibration_tokens, evaluation_tokens
from labs.common.tiny_models import load_tiny

#: Layers made from a seed: name -> (seed, out, in).
SEEDED = {"seeded-192x256": (31, 192, 256), "seeded-256x768": (32, 256, 768)}
#: Layers of the shipped target: attention behind the planted outliers, and both kinds of MLP.
SHIPPED = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.3.mlp.up_proj",
    "model.layers.5.mlp.down_proj",
)
TOKENS_A_ROW = 128


@dataclass(frozen=True)
class Setting:
    """How a layer is quantized: the same for everybody."""

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True
    act_order: bool = False
    damping: float = 0.01
    static_groups: bool = False

    @property
    def name(self) -> str:
        """Such as ``sym-g128-act-static``."""
        parts = ["sym" if self.symmetric else "asym", f"g{self.group_size}"]
        parts += ["act"] * self.act_order + ["static"] * self.static_groups
        return "-".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """As the scripts in the other environments read it."""
        return {**asdict(self), "name": self.name}


SETTINGS = tuple(
    Setting(group_size=group, symmetric=symmetric, act_order=act, static_groups=static)
    for group in (64, 128)
    for symmetric in (True, False)
    for act in (False, True)
    for static in (False, True)
)


@dataclass(frozen=True)
class Layer:
    """A linear layer without a bias and what goes into it, all fp32.

    Attributes:
        weight: [out, in].
        calibration: [rows, tokens, in], what GPTQ gets to see.
        held_out: [rows, tokens, in], what it does not.
    """

    name: str
    weight: torch.Tensor
    calibration: torch.Tensor
    held_out: torch.Tensor

    @property
    def sha256(self) -> str:
        """Of the weights' bytes: records of another model's layer are worth nothing."""
        return hashlib.sha256(self.weight.contiguous().numpy().tobytes()).hexdigest()


def seeded_layer(name: str, seed: int, out: int, columns: int) -> Layer:
    """Weights of an ordinary size; inputs that move together, some channels far larger."""
    rng = torch.Generator().manual_seed(seed)
    weight = 0.04 * torch.randn(out, columns, generator=rng)
    mixing = torch.randn(columns, columns, generator=rng) / columns**0.5
    mixing *= torch.linspace(1.5, 0.1, columns)  # few directions carry most of it
    size = torch.exp(0.8 * torch.randn(columns, generator=rng))
    inputs = torch.randn(64, TOKENS_A_ROW, columns, generator=rng) @ mixing.T * size
    return Layer(name, weight, inputs[:32].contiguous(), inputs[32:].contiguous())


def all_layers() -> list[Layer]:
    """Every layer of the comparison."""
    layers = [seeded_layer(name, *what) for name, what in SEEDED.items()]
    model, _ = load_tiny("target")
    calibration, held_out = (
        linear_inputs(model, tokens)
        for tokens in (
            calibration_tokens(32, TOKENS_A_ROW),
            evaluation_tokens(rows=32)[:, :TOKENS_A_ROW],
        )
    )
    for name in SHIPPED:
        weight = model.get_submodule(name).weight.detach().float()
        inputs = (x[name].unflatten(0, (-1, TOKENS_A_ROW)) for x in (calibration, held_out))
        layers.append(Layer(name, weight, *inputs))
    return layers


def layer_error(weight: torch.Tensor, other: torch.Tensor, inputs: torch.Tensor) -> float:
    """``||X W^T - X Q^T||^2 / ||X W^T||^2`` in fp64."""
    x = inputs.reshape(-1, inputs.shape[-1]).double()
    wanted = x @ weight.double().T
    return float((wanted - x @ other.double().T).square().sum() / wanted.square().sum())
