"""Record what a library makes of the layers: ``python -m graders.lab03.references.record LIBRARY``.

LIBRARY is ``autogptq`` or ``llmcompressor``. To be run in that library's environment (``python3
noxfile.py -s lab03-references-autogptq``), or with ``--python`` naming the interpreter of one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from graders.lab03.reference_gptq import PACKED
from graders.lab03.references.layers import SETTINGS, Layer, all_layers, layer_error

FOLDER = Path(__file__).resolve().parent
#: The two checkpoints of which a layer is shipped, as auto-gptq packed it.
SAMPLES: dict[str, dict[str, Any]] = {
    "plain": {"seed": 5, "bits": 4, "group_size": 32, "symmetric": True, "act_order": False,
              "damping": 0.01},
    "act_order": {"seed": 6, "bits": 4, "group_size": 32, "symmetric": False, "act_order": True,
                  "damping": 0.01},
}  # fmt: skip
SAMPLE_LAYER = "model.layers.0.self_attn.k_proj"


def autogptq_python() -> str | None:
    """An interpreter that has auto-gptq, or None: that of `.nox/`, or the one a variable names."""
    named = os.environ.get("INFERLAB_AUTOGPTQ_PYTHON")
    own = FOLDER.parents[2] / ".nox" / "lab03-gptq" / "bin" / "python"
    return named or (str(own) if own.exists() else None)


def run_script(library: str, *arguments: str, python: str = sys.executable) -> None:
    """Run ``run_<library>.py``; its own words are shown only when it fails."""
    command = [python, str(FOLDER / f"run_{library}.py"), *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:3])} failed:\n{done.stderr[-4000:]}")


def record_errors(library: str, layers: list[Layer], python: str) -> None:
    """Write ``<library>.json``: the error of each layer under each setting."""
    # llmcompressor's grids are static ones: of the others it has no equal.
    offered = [s for s in SETTINGS if s.static_groups or library == "autogptq"]
    with tempfile.TemporaryDirectory() as scratch:
        source, target = str(Path(scratch, "in")), str(Path(scratch, "out"))
        tensors = {f"{layer.name}.weight": layer.weight for layer in layers}
        tensors |= {f"{layer.name}.inputs": layer.calibration for layer in layers}
        save_file(tensors, source)
        run_script(
            library,
            "quantize",
            source,
            target,
            json.dumps([setting.to_dict() for setting in offered]),
            python=python,
        )
        made, versions = load_file(target), _versions(target)
    record: dict[str, Any] = {"versions": versions, "layers": {}}
    for layer in layers:
        errors = {
            setting.name: {
                "calibration": _error(layer, made, setting.name, layer.calibration),
                "held_out": _error(layer, made, setting.name, layer.held_out),
            }
            for setting in offered
        }
        record["layers"][layer.name] = {"weights_sha256": layer.sha256, "errors": errors}
    text = json.dumps(record, indent=2) + "\n"
    (FOLDER / f"{library}.json").write_text(text, encoding="utf-8")


def _error(
    layer: Layer, made: dict[str, torch.Tensor], setting: str, inputs: torch.Tensor
) -> float:
    return float(f"{layer_error(layer.weight, made[f'{layer.name}/{setting}'], inputs):.6g}")


def _versions(path: str) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["versions"])


def record_samples(python: str) -> None:
    """Write ``autogptq_layers.safetensors``: packed by the library, and as it multiplies them."""
    out: dict[str, torch.Tensor] = {}
    for name, setting in SAMPLES.items():
        with tempfile.TemporaryDirectory() as scratch:
            run_script("autogptq", "make", scratch, json.dumps(setting), python=python)
            folder, tokens = Path(scratch, "quantized"), str(Path(scratch, "tokens"))
            save_file({"tokens": torch.arange(8)[None]}, tokens)
            result = str(Path(scratch, "result"))
            run_script("autogptq", "load", str(folder), tokens, result, python=python)
            (file,) = folder.glob("*.safetensors")
            saved = load_file(file)
            for kind in PACKED:
                out[f"{name}.{kind}"] = saved[f"{SAMPLE_LAYER}.{kind}"].contiguous()
            out[f"{name}.dequantized"] = load_file(result)[SAMPLE_LAYER]
    save_file(out, FOLDER / "autogptq_layers.safetensors", {"format": "pt"})
    (FOLDER / "autogptq_layers.safetensors").chmod(0o644)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=["autogptq", "llmcompressor"])
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has it")
    options = parser.parse_args()
    record_errors(options.library, all_layers(), options.python)
    if options.library == "autogptq":
        record_samples(options.python)
    print(f"{options.library}: recorded in {FOLDER.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
