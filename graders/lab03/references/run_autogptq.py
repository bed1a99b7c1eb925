"""What auto-gptq does, in its own environment: quantize layers, write or run a checkpoint.

    python run_autogptq.py quantize IN OUT SETTINGS    weights and inputs in, weights out
    python run_autogptq.py make FOLDER SETTING         quantize and save a small random Llama
    python run_autogptq.py load FOLDER TOKENS OUT      load a GPTQ checkpoint and run it

IN holds ``<layer>.weight`` [out, in] and ``<layer>.inputs`` [rows, tokens, in], fp32; SETTINGS is a
JSON list (see layers.Setting). OUT holds ``<layer>/<setting>`` fp32 [out, in], dequantized; for
``load``, ``logits`` and each quantized layer's weight, as its own QuantLinear multiplies with it.
Versions are in OUT's metadata. This file imports nothing of the course: it runs where only
auto-gptq is.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from autogptq_shim import on_cpu, pretend_cuda
from safetensors.torch import load_file, save_file

PACKAGES = ("auto-gptq", "torch", "transformers", "numpy")


def versions() -> dict[str, str]:
    """For the records' metadata; torch without its build."""
    found = {name: importlib.metadata.version(name).split("+")[0] for name in PACKAGES}
    return {"versions": json.dumps(found)}


def quantize(source: str, target: str, settings: str) -> None:
    """Every layer of ``source`` with every setting, by the library's GPTQ class."""
    from auto_gptq.quantization import GPTQ

    tensors, out = load_file(source), {}
    for key, weight in tensors.items():
        name, _, kind = key.rpartition(".")
        if kind != "weight":
            continue
        for setting in json.loads(settings):
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            layer.weight.data = weight.clone()
            with on_cpu():
                gptq = GPTQ(layer)
                gptq.quantizer.configure(
                    setting["bits"], perchannel=True, sym=setting["symmetric"], mse=False
                )
                for rows in tensors[f"{name}.inputs"].split(8):
                    gptq.add_batch(rows, None)
                gptq.fasterquant(
                    percdamp=setting["damping"],
                    group_size=setting["group_size"],
                    actorder=setting["act_order"],
                    static_groups=setting["static_groups"],
                )
            out[f"{name}/{setting['name']}"] = layer.weight.data.clone()
    save_file(out, target, versions())


def make(folder: str, setting: str) -> None:
    """Quantize a small random Llama by the library's front door and save it to ``folder``."""
    from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
    from transformers import LlamaConfig, LlamaForCausalLM

    wanted: dict[str, Any] = json.loads(setting)
    torch.manual_seed(wanted["seed"])
    config: Any = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    plain = Path(folder, "plain")
    LlamaForCausalLM(config).save_pretrained(plain)
    examples = [
        {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
        for rows in torch.randint(3, 64, (16, 48)).split(1)
    ]
    quantize_config = BaseQuantizeConfig(
        bits=wanted["bits"], group_size=wanted["group_size"], sym=wanted["symmetric"],
        desc_act=wanted["act_order"], damp_percent=wanted["damping"],
    )  # fmt: skip
    with on_cpu():
        with pretend_cuda():
            model = AutoGPTQForCausalLM.from_pretrained(
                str(plain), quantize_config, torch_dtype=torch.float16
            )
        model.model.float()  # half-precision matrix products are slow and less exact on a CPU
        model.quantize(examples)
        model.model.half()
        model.save_quantized(str(Path(folder, "quantized")), use_safetensors=True)


def load(folder: str, tokens: str, target: str) -> None:
    """Load the checkpoint in ``folder`` as the library does, run it on ``tokens`` in fp32."""
    from auto_gptq import AutoGPTQForCausalLM

    with on_cpu():
        model = AutoGPTQForCausalLM.from_quantized(
            folder, device="cpu", torch_dtype=torch.float32, use_safetensors=True,
            use_triton=False, disable_exllama=True, disable_exllamav2=True,
            inject_fused_attention=False, inject_fused_mlp=False, low_cpu_mem_usage=False,
        )  # fmt: skip
    out = {}
    with torch.no_grad():
        out["logits"] = model.model(load_file(tokens)["tokens"]).logits.contiguous()
        for name, module in model.model.named_modules():
            if type(module).__name__ == "QuantLinear":
                eye = torch.eye(module.infeatures)
                out[name] = (
                    module(eye) - (0 if module.bias is None else module.bias)
                ).T.contiguous()
    save_file(out, target, versions())


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {"quantize": quantize, "make": make, "load": load}
    commands[sys.argv[1]](*sys.argv[2:])
