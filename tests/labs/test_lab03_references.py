"""Lab 03's reference libraries: records fit the shipped models, auto-gptq runs our files."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from graders.lab03 import reference_gptq as reference
from graders.lab03.references import layers as compared
from graders.lab03.references.record import autogptq_python, run_script
from labs.common.linears import linear_inputs
from labs.common.perplexity import calibration_tokens, evaluation_tokens, perplexity
from labs.common.tiny_models import load_tiny, model_config

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("autogptq", "llmcompressor")


@pytest.fixture(scope="module")
def gptq() -> ModuleType:
    """The solution's module."""
    sys.path.insert(0, str(ROOT / "solutions"))
    try:
        return importlib.import_module("lab03_quantization.gptq")
    finally:
        sys.path.remove(str(ROOT / "solutions"))


@pytest.fixture(scope="module")
def layers() -> list[compared.Layer]:
    return compared.all_layers()


def test_the_records_are_of_the_shipped_weights(layers: list[compared.Layer]) -> None:
    for library in LIBRARIES:
        recorded = reference.record(library)["layers"]
        stale = [x.name for x in layers if recorded[x.name]["weights_sha256"] != x.sha256]
        assert not stale, f"{stale}: python3 noxfile.py -s lab03-references-{library}"


def test_the_records_are_of_the_pinned_versions() -> None:
    for library, group in (("autogptq", "gptq"), ("llmcompressor", "llmcompressor")):
        lines = (ROOT / "constraints" / f"lab03-{group}.txt").read_text().splitlines()
        pins = dict(line.split("==") for line in lines if "==" in line and ";" not in line)
        found = reference.record(library)["versions"]
        assert found == {name: pins[name] for name in found}


def test_the_error_is_within_two_percent_of_the_libraries(
    gptq: ModuleType, layers: list[compared.Layer]
) -> None:
    """Every layer, every setting that they have equals of, as the handout says."""
    records = [reference.record(library)["layers"] for library in LIBRARIES]
    for layer in layers:
        x = layer.calibration.reshape(-1, layer.weight.shape[1])
        h = gptq.hessian(x.split(512))
        for setting in compared.SETTINGS:
            fields = {k: v for k, v in setting.to_dict().items() if k != "name"}
            weights = gptq.gptq_dequantize(*gptq.gptq_quantize(layer.weight, h, **fields))
            for kind, inputs in (("calibration", x), ("held_out", layer.held_out)):
                theirs = [
                    record[layer.name]["errors"][setting.name][kind]
                    for record in records
                    if setting.name in record[layer.name]["errors"]
                ]
                error = compared.layer_error(layer.weight, weights, inputs)
                assert error <= 1.02 * min(theirs), (layer.name, setting.name, kind)


# -- auto-gptq itself, where it is


needs_autogptq = pytest.mark.skipif(
    autogptq_python() is None,
    reason="auto-gptq was NOT RUN: `python3 noxfile.py -s lab03` makes its "
    "environment, or INFERLAB_AUTOGPTQ_PYTHON names one",
)


@needs_autogptq
@pytest.mark.parametrize(
    "act_order, blocks", [(False, 1), (True, 6)], ids=["plain", "act_order, all of it"]
)
def test_autogptq_loads_and_runs_the_checkpoint(
    gptq: ModuleType, tmp_path: Path, act_order: bool, blocks: int
) -> None:
    """The linear layers of the shipped target's first blocks, quantized and packed by the solution.

    auto-gptq's own loader and QuantLinear give exactly our weights back, and the logits of a plain
    model that holds them.
    """
    model, _ = load_tiny("target")
    model.model.layers = model.model.layers[:blocks]
    inputs = linear_inputs(model, calibration_tokens(8, 128))
    settings = {"group_size": 64, "symmetric": not act_order, "act_order": act_order}
    layers = {}
    for name, x in inputs.items():
        weight = model.get_submodule(name).weight.detach()
        h = gptq.hessian(x.split(300))
        layers[name] = gptq.gptq_quantize(weight, h, **settings)
    others = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.removesuffix(".weight") not in layers
    }
    config = {**model_config("target"), "num_hidden_layers": blocks}
    files = gptq.checkpoint_files(layers, others, config, **settings)
    folder = tmp_path / "checkpoint"
    gptq.write_checkpoint(folder, files)
    tokens = evaluation_tokens(rows=4)[:, :64]
    save_file({"tokens": tokens.contiguous()}, tmp_path / "tokens")
    run_script(
        "autogptq", "load", str(folder), str(tmp_path / "tokens"), str(tmp_path / "out"),
        python=str(autogptq_python()),
    )  # fmt: skip
    theirs = load_file(tmp_path / "out")
    before = perplexity(model, tokens).perplexity
    read = gptq.read_layers(files["model.safetensors"])
    assert set(read) == set(layers) == set(theirs) - {"logits"}
    for name, layer in read.items():
        weight = gptq.gptq_dequantize(*layer)
        assert torch.equal(weight, theirs[name]), name
        model.get_submodule(name).weight.data.copy_(weight)
    for name, tensor in others.items():
        model.state_dict()[name].copy_(tensor.half())
    with torch.no_grad():
        logits = model(tokens).logits
    assert torch.allclose(logits, theirs["logits"], atol=2e-3), (
        (logits - theirs["logits"]).abs().max()
    )
    after = perplexity(lambda rows: theirs["logits"][: len(rows)], tokens, batch=4).perplexity
    assert before * 0.97 < after < before * 1.3, (before, after)


@needs_autogptq
def test_the_script_repeats_what_was_recorded(tmp_path: Path) -> None:
    layer = compared.seeded_layer("seeded-192x256", *compared.SEEDED["seeded-192x256"])
    setting = compared.Setting(act_order=True)
    save_file(
        {f"{layer.name}.weight": layer.weight, f"{layer.name}.inputs": layer.calibration},
        tmp_path / "in",
    )
    run_script(
        "autogptq", "quantize", str(tmp_path / "in"), str(tmp_path / "out"),
        json.dumps([setting.to_dict()]), python=str(autogptq_python()),
    )  # fmt: skip
    weights = load_file(tmp_path / "out")[f"{layer.name}/{setting.name}"]
    error = compared.layer_error(layer.weight, weights, layer.calibration)
    recorded = reference.record("autogptq")["layers"][layer.name]["errors"][setting.name]
    assert error == pytest.approx(recorded["calibration"], rel=1e-2)
