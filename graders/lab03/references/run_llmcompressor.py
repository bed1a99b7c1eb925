"""What llmcompressor does, in its own environment: quantize layers by its GPTQModifier.

    python run_llmcompressor.py quantize IN OUT SETTINGS

As run_autogptq.py: ``<layer>.weight`` and ``<layer>.inputs`` in, ``<layer>/<setting>`` out. Its
grids come from the weights as they were, before any update: static groups, and nothing else is
asked of it. Its activation order is "weight", the only one that 0.14 still does ("group", with
groups along the order, is refused). This file imports nothing of the course.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor.core import State
from llmcompressor.modifiers.gptq import GPTQModifier
from safetensors.torch import load_file, save_file

PACKAGES = ("llmcompressor", "compressed-tensors", "torch", "transformers")


def quantize(source: str, target: str, settings: str) -> None:
    """Every layer of ``source`` with every setting, each a modifier's life over one layer."""
    tensors, out = load_file(source), {}
    for key, weight in tensors.items():
        name, _, kind = key.rpartition(".")
        if kind != "weight":
            continue
        for setting in json.loads(settings):
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            layer.weight.data = weight.clone()
            model = torch.nn.Sequential(layer)
            weights = QuantizationArgs(
                num_bits=setting["bits"], type="int", symmetric=setting["symmetric"],
                strategy="group", group_size=setting["group_size"],
            )  # fmt: skip
            modifier = GPTQModifier(
                dampening_frac=setting["damping"],
                block_size=128,
                actorder="weight" if setting["act_order"] else None,
                config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)},
            )
            state = State(model=model)
            modifier.on_initialize(state)
            modifier.on_calibration_start(state, None)
            with torch.no_grad():
                for rows in tensors[f"{name}.inputs"].split(8):
                    model(rows)
            modifier.on_sequential_epoch_end(state, None, [layer])
            out[f"{name}/{setting['name']}"] = layer.weight.data.clone()
    found = {name: importlib.metadata.version(name).split("+")[0] for name in PACKAGES}
    save_file(out, target, {"versions": json.dumps(found)})


if __name__ == "__main__":
    {"quantize": quantize}[sys.argv[1]](*sys.argv[2:])
