"""Hidden tests of lab 03's GPTQ."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from graders.lab03 import reference_gptq as reference
from graders.lab03.reference_gptq import Case
from graders.lab03.references.layers import (
    SEEDED,
    SETTINGS,
    SHIPPED,
    Layer,
    all_layers,
    layer_error,
)
from graders.lab03.references.record import autogptq_python, run_script
from labs.common.linears import linear_inputs
from labs.common.perplexity import calibration_tokens
from labs.common.tiny_models import load_tiny, model_config

pytestmark = pytest.mark.task("gptq")

NAMES = ("codes", "scales", "zeros", "g_idx")


def quantized(student, check, w, h, case, given=None):
    """The submission's answer, of the right shapes and dtypes."""
    got = student.gptq.gptq_quantize(w, h, **case.settings())
    check.true(
        type(got) is tuple and len(got) == 4,
        "expected a tuple of codes, scales, zeros and g_idx",
        given=given,
        got=got,
    )
    groups = case.columns // case.group_size
    shapes = ([case.out, case.columns], [case.out, groups], [case.out, groups], [case.columns])
    dtypes = (torch.uint8, torch.float32, torch.uint8, torch.int32)
    for name, tensor, shape, dtype in zip(NAMES, got, shapes, dtypes, strict=True):
        check.tensor(tensor, shape=shape, dtype=dtype, given={"tensor": name, **(given or {})})
    _, expected = reference.order_and_groups(h, case)
    check.equal(got[3], expected, given={"tensor": "g_idx", **(given or {})})
    return got


# -- Hessian ---------------------------------------------------------------------------------------


@pytest.mark.task("gptq", weight=2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_hessian(student, check, rng_seed, dtype):
    """2 / n times the sum of x x^T over all tokens, in fp32, however they are split."""
    for seed, columns, sizes in ((0, 5, [7]), (1, 24, [1, 30, 9]), (2, 33, [64, 3, 0, 20])):
        _, x = reference.make_layer(rng_seed + seed, 2, columns, sum(sizes))
        x = (40 * x).to(dtype)  # squares that fp16 cannot hold
        given = {"batches": sizes, "in": columns, "dtype": str(dtype)}
        got = student.gptq.hessian(list(x.split(sizes)))
        expected = reference.hessian(x)
        size = float(expected.diagonal().max())
        check.close(got, expected, dtype=torch.float32, rtol=1e-5, atol=1e-6 * size, given=given)


def test_no_tokens(student, check):
    """No batch at all, or only empty ones: refused."""
    for batches in ([], [torch.zeros(0, 4), torch.zeros(0, 4)]):
        with check.raises(ValueError, given={"batches": len(batches)}):
            student.gptq.hessian(batches)


# -- factor ----------------------------------------------------------------------------------------


@pytest.mark.task("gptq", weight=2)
@pytest.mark.parametrize(
    "columns, tokens, dead", [(4, 50, ()), (37, 200, ()), (48, 20, (0, 11, 30))]
)
@pytest.mark.parametrize("damping", [0.01, 0.3])
def test_inverse_factor(student, check, rng_seed, columns, tokens, dead, damping):
    """U is upper triangular, and U^T U inverts the damped Hessian, dead inputs included."""
    _, x = reference.make_layer(rng_seed, 2, columns, tokens, dead)
    h = 7 * reference.hessian(x).float()
    given = {"in": columns, "tokens": tokens, "dead": list(dead), "damping": damping}
    got = student.gptq.inverse_factor(h, damping)
    u = check.tensor(got, shape=h.shape, dtype=torch.float32, given=given).double()
    check.true(bool((u.tril(-1) == 0).all()), "U is not upper triangular", given=given, got=got)
    check.true(bool((u.diagonal() > 0).all()), "U's diagonal is not positive", given=given, got=got)
    product = u.T @ u @ reference.damped(h, damping)
    off = float((product - torch.eye(columns)).abs().max())
    check.true(
        off < 2e-2, "U^T U times the damped Hessian is not the identity", given=given,
        expected="off by less than 0.02", got=f"off by {off:.3g}",
    )  # fmt: skip


def test_not_positive_definite(student, check):
    """A matrix that is not positive definite after damping is refused."""
    h = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    for damping in (0.0, 0.5):
        with check.raises(ValueError, given={"h": h, "damping": damping}):
            student.gptq.inverse_factor(h, damping)
    with check.raises(ValueError, given={"h": h}):
        student.gptq.gptq_quantize(torch.ones(2, 2), h, group_size=2)
    got = student.gptq.inverse_factor(h, 1.5)  # 2.5 on the diagonal will do
    check.tensor(got, shape=(2, 2), dtype=torch.float32, given={"h": h, "damping": 1.5})


# -- quantization ----------------------------------------------------------------------------------

CASES = [
    Case(1, 24, 64, 32),
    Case(2, 17, 96, 32, symmetric=False),
    Case(3, 24, 72, 24, act_order=True),
    Case(4, 16, 96, 16, symmetric=False, act_order=True),
    Case(5, 16, 96, 32, static_groups=True),
    Case(6, 16, 96, 32, act_order=True, static_groups=True, symmetric=False),
    Case(7, 5, 40, 40, bits=3, block_size=7),
    Case(8, 9, 60, 12, block_size=16, symmetric=False),
    Case(9, 9, 60, 12, block_size=16, act_order=True, static_groups=True),
    Case(10, 8, 96, 48, block_size=20),
    Case(11, 12, 48, 16, dead=(0, 5, 40, 47), act_order=True),
    Case(12, 12, 48, 16, dead=(3, 16, 17), symmetric=False, block_size=1),
    Case(13, 6, 64, 32, bits=8, tokens=2000, damping=0.05),
    Case(14, 8, 64, 16, bits=2, symmetric=False, tokens=30, damping=0.2),
    Case(15, 1, 16, 16, tokens=100),
]


@pytest.mark.task("gptq", weight=6)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_code(student, check, rng_seed, case):
    """Every grid and code is that of the weights as updated for all errors before it."""
    for repeat in range(2):
        seed = rng_seed + 97 * repeat + case.seed
        w, x = reference.make_layer(seed, case.out, case.columns, case.tokens, case.dead)
        h = reference.hessian(x).float()
        given = {"w": [case.out, case.columns], **case.settings(), "dead": list(case.dead)}
        got = quantized(student, check, w, h, case, given)
        problem = reference.replay(w, h, case, got)
        check.true(problem is None, problem or "", given=given)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
def test_uncoupled_inputs(student, check, rng_seed, symmetric, act_order):
    """Where no input moves with another, GPTQ is rounding to nearest."""
    case = Case(0, 11, 48, 12, symmetric=symmetric, act_order=act_order)
    rng = torch.Generator().manual_seed(rng_seed)
    w = torch.randn(case.out, case.columns, generator=rng)
    diagonal = 0.5 + torch.rand(case.columns, generator=rng)
    h = torch.diag(diagonal)
    order, _ = reference.order_and_groups(h, case)
    given = {"h": "diagonal", **case.settings()}
    got = reference.dequantize(*quantized(student, check, w, h, case, given))
    # Half a step from the weight, and no more: of two codes that are equally near, either will do.
    steps = torch.empty(w.shape, dtype=torch.float64)
    for group in order.split(case.group_size):
        scale, zero, _ = reference.grid(w[:, group].double(), 4, symmetric)
        top = (15 - zero) * scale  # a symmetric grid does not reach its largest weight
        steps[:, group] = (torch.minimum(w[:, group].double(), top) - got[:, group]).abs() / scale
    worst = float(steps.max())
    check.true(
        worst < 0.501, "a weight is not rounded to the nearest value of its grid", given=given,
        expected="at most half a step away", got=f"{worst:.3f} steps away",
    )  # fmt: skip


@pytest.mark.parametrize("act_order", [False, True])
def test_beats_rounding(student, check, rng_seed, act_order):
    """Outputs, on inputs seen and not seen, are nearer than with rounding to nearest."""
    for seed in range(3):
        case = Case(0, 32, 128, 64, act_order=act_order)
        w, x = reference.make_layer(rng_seed + seed, case.out, case.columns, 1600)
        seen, unseen = x[:800], x[800:]
        h = reference.hessian(seen).float()
        got = reference.dequantize(*quantized(student, check, w, h, case))
        _, nearest = reference.round_to_nearest(w, 4, 64, True)
        for name, inputs in (("calibration", seen), ("other inputs", unseen)):
            error = layer_error(w, got, inputs)
            limit = 0.8 * layer_error(w, nearest, inputs)
            check.true(
                error < limit, f"not better than rounding to nearest on {name}",
                given=case.settings(), expected=f"below {limit:.4g}", got=f"{error:.4g}",
            )  # fmt: skip


def test_gptq_refusals(student, check):
    """Groups that do not divide the columns, and Hessians of another size, are refused."""
    w, h = torch.ones(8, 48), torch.eye(48)
    for settings in ({"group_size": 32}, {"group_size": 0}, {"group_size": 16, "block_size": 0}):
        with check.raises(ValueError, given={"in": 48, **settings}):
            student.gptq.gptq_quantize(w, h, **settings)
    with check.raises(ValueError, given={"in": 48, "h": "32 x 32"}):
        student.gptq.gptq_quantize(w, torch.eye(32), group_size=16)


def test_gptq_dequantize(student, check, rng_seed):
    """Each column has its own group's scale and zero, wherever the column stands."""
    rng = torch.Generator().manual_seed(rng_seed)
    for out, columns, groups, kind in ((3, 10, 4, torch.float32), (8, 33, 1, torch.float16)):
        codes = torch.randint(0, 16, (out, columns), generator=rng).to(torch.uint8)
        zeros = torch.randint(0, 16, (out, groups), generator=rng).to(torch.uint8)
        scales = torch.rand(out, groups, generator=rng).to(kind)
        g_idx = torch.randint(0, groups, (columns,), generator=rng).to(torch.int32)
        got = student.gptq.gptq_dequantize(codes, scales, zeros, g_idx)
        expected = reference.dequantize(codes, scales, zeros, g_idx)
        given = {"codes": codes, "zeros": zeros, "g_idx": g_idx}
        check.close(got, expected, dtype=torch.float32, rtol=1e-6, atol=0, given=given)


# -- against the libraries -------------------------------------------------------------------------


@pytest.fixture
def layers(run_cache) -> dict[str, Layer]:
    """The layers of the comparison, with their inputs; made once a run."""
    if "gptq_layers" not in run_cache:
        run_cache["gptq_layers"] = {layer.name: layer for layer in all_layers()}
    return run_cache["gptq_layers"]


@pytest.mark.task("gptq", weight=3)
@pytest.mark.parametrize("name", [*SEEDED, *SHIPPED])
def test_as_good_as_the_libraries(student, check, note, layers, name):
    """The layer error is at most 1.05 times that of the better library with the same settings."""
    layer = layers[name]
    libraries = {library: reference.record(library) for library in ("autogptq", "llmcompressor")}
    for library, recorded in libraries.items():
        if recorded["layers"][name]["weights_sha256"] != layer.sha256:
            raise AssertionError(
                f"the grader's own record of {library} is of other weights than the shipped ones "
                f"(python3 noxfile.py -s lab03-references-{library}); it is not your fault"
            )
    out, columns = layer.weight.shape
    x = layer.calibration.reshape(-1, columns)
    h = reference.hessian(x).float()
    told, measured = [], {}
    for setting in SETTINGS[SHIPPED.index(name) if name in SHIPPED else 0 :: 3]:
        fields = dataclasses.asdict(setting)
        case = Case(0, out, columns, fields.pop("group_size"), **fields)
        got = quantized(student, check, layer.weight, h, case, {"layer": name})
        error = layer_error(layer.weight, reference.dequantize(*got), x)
        theirs = {
            library: recorded["layers"][name]["errors"][setting.name]["calibration"]
            for library, recorded in libraries.items()
            if setting.name in recorded["layers"][name]["errors"]
        }
        _, nearest = reference.round_to_nearest(
            layer.weight, 4, setting.group_size, setting.symmetric
        )
        rounding = layer_error(layer.weight, nearest, x)
        words = ", ".join(f"{library} {value:.4g}" for library, value in theirs.items())
        figures = {"yours": error, "rounding": rounding, **theirs}
        ratio = error / min(theirs.values())
        told.append((ratio, f"{setting.name}: yours {error:.4g}, {words}, rounding {rounding:.4g}"))
        measured |= {f"{setting.name} {who}": figure for who, figure in figures.items()}
    ratio, line = max(told)
    note(f"{name}, the farthest from the libraries, {line}", f"gptq {name}", **measured)
    check.true(
        ratio <= 1.05, "a larger layer error than the better library's", given={"layer": name},
        expected="at most 1.05 times", got=f"{ratio:.3f} times, {line}",
    )  # fmt: skip


# -- checkpoints -----------------------------------------------------------------------------------

CONFIG = {"model_type": "llama", "hidden_size": 32, "torch_dtype": "bfloat16"}


def random_quantized(seed: int, out: int, columns: int, groups: int):
    """Any codes at all, zero points of 0 and columns in any order among them."""
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 16, (out, columns), generator=rng).to(torch.uint8),
        torch.rand(out, groups, generator=rng).half().float(),
        torch.randint(0, 16, (out, groups), generator=rng).to(torch.uint8),
        torch.randint(0, groups, (columns,), generator=rng).to(torch.int32),
    )


@pytest.mark.task("gptq", weight=2)
def test_checkpoint_bit_for_bit(student, check, rng_seed):
    """The files are the common GPTQ format's: names, dtypes, every bit, and both JSON files."""
    layers = {
        "model.layers.0.mlp.up_proj": random_quantized(rng_seed, 24, 32, 4),
        "model.layers.0.mlp.down_proj": random_quantized(rng_seed + 1, 8, 16, 1),
    }
    rng = torch.Generator().manual_seed(rng_seed)
    others = {
        "model.norm.weight": torch.randn(32, generator=rng),
        "lm_head.weight": torch.randn(8, 6, generator=rng).bfloat16().T,
        "model.rotary.positions": torch.arange(5, dtype=torch.int32),
    }
    settings = {"bits": 4, "group_size": 8, "symmetric": False, "act_order": True, "damping": 0.02}
    given = {"layers": list(layers), "others": list(others), **settings}
    files = student.gptq.checkpoint_files(layers, others, CONFIG, **settings, static_groups=True)
    names = ["config.json", "model.safetensors", "quantize_config.json"]
    check.true(type(files) is dict, "expected a dict of files", given=given, got=files)
    check.equal(sorted(files), names, given=given)
    check.true(all(type(f) is bytes for f in files.values()), "files are bytes", given=given)
    tensors, metadata = reference.parse_safetensors(files["model.safetensors"])
    expected = {name: t.half() if t.is_floating_point() else t for name, t in others.items()}
    for name, parts in layers.items():
        packed = reference.pack(*parts)
        expected |= {f"{name}.{kind}": packed[kind] for kind in reference.PACKED}
    check.equal(sorted(tensors), sorted(expected), given=given)
    for name, tensor in expected.items():
        check.equal(tensors[name], tensor.contiguous(), given={"tensor": name})
    check.equal(metadata, {"format": "pt"}, given={"part": "metadata of model.safetensors"})
    check.equal(
        json.loads(files["quantize_config.json"]), quantize_config(), given={"quantize_config": ""}
    )
    config = {**CONFIG, "torch_dtype": "float16", "quantization_config": quantize_config()}
    check.equal(json.loads(files["config.json"]), config, given={"config.json": ""})


def quantize_config() -> dict[str, object]:
    """As it must read for the settings of the test above."""
    return {
        "bits": 4, "group_size": 8, "damp_percent": 0.02, "desc_act": True, "static_groups": True,
        "sym": False, "true_sequential": False, "model_name_or_path": None,
        "model_file_base_name": "model", "is_marlin_format": False, "quant_method": "gptq",
        "checkpoint_format": "gptq",
    }  # fmt: skip


def test_checkpoint_refusals(student, check, rng_seed):
    """Other codes than nibbles, and a layer stored twice, are refused."""
    layers = {"a": random_quantized(rng_seed, 8, 8, 1)}
    with check.raises(ValueError, given={"bits": 8}):
        student.gptq.checkpoint_files(layers, {}, CONFIG, bits=8, group_size=8)
    with check.raises(ValueError, given={"layers": ["a"], "others": ["a.weight"]}):
        student.gptq.checkpoint_files(layers, {"a.weight": torch.ones(8, 8)}, CONFIG, group_size=8)


@pytest.mark.task("gptq", weight=2)
@pytest.mark.parametrize("sample", ["plain", "act_order"])
def test_layer_packed_by_autogptq(student, check, sample):
    """A layer that auto-gptq packed: read, it is what auto-gptq multiplies with; written, its bits.

    Everything that is no quantized layer is left out.
    """
    stored = load_file(reference.REFERENCES / "autogptq_layers.safetensors")
    packed = {kind: stored[f"{sample}.{kind}"] for kind in reference.PACKED}
    name = "model.layers.3.self_attn.k_proj"
    tensors = {f"{name}.{kind}": tensor for kind, tensor in packed.items()}
    noise = {"model.norm.weight": torch.ones(4).half(), "b.scales": torch.ones(1, 8).half()}
    noise |= {"b.qweight": packed["qweight"].clone(), "b.qzeros": packed["qzeros"].clone()}
    got = student.gptq.read_layers(save({**noise, **tensors}))
    check.true(type(got) is dict and list(got) == [name], "expected one layer", given=name, got=got)
    for part, value, expected in zip(NAMES, got[name], reference.unpack(packed), strict=True):
        check.equal(value, expected, given={"layer": sample, "tensor": part})
    weight = student.gptq.gptq_dequantize(*got[name])
    check.equal(weight, stored[f"{sample}.dequantized"], given={"layer": sample})
    files = student.gptq.checkpoint_files({name: got[name]}, {}, CONFIG, group_size=32)
    written, _ = reference.parse_safetensors(files["model.safetensors"])
    for key, tensor in tensors.items():
        check.equal(written.get(key), tensor, given={"layer": sample, "tensor": key})


@pytest.mark.task("gptq", weight=2)
def test_autogptq_runs_the_checkpoint(student, check, note, tmp_path):
    """auto-gptq's own loader takes the checkpoint and multiplies with exactly its weights.

    Where there is no auto-gptq this says so, and asks no more than the tests of the format do.
    """
    python = autogptq_python()
    if python is None:
        note("auto-gptq is not installed here and did not run the checkpoint", "auto-gptq")
        return
    model, _ = load_tiny("target")
    model.model.layers = model.model.layers[:1]
    inputs = linear_inputs(model, calibration_tokens(4, 128))
    case = Case(0, 0, 0, 64)
    layers = {}
    for name, x in inputs.items():
        w = model.get_submodule(name).weight.detach()
        case = dataclasses.replace(case, out=w.shape[0], columns=w.shape[1])
        h = reference.hessian(x).float()
        layers[name] = quantized(student, check, w, h, case, {"layer": name})
    others = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.removesuffix(".weight") not in layers
    }
    config = {**model_config("target"), "num_hidden_layers": 1}
    files = student.gptq.checkpoint_files(layers, others, config, group_size=64)
    names = ("config.json", "model.safetensors", "quantize_config.json")
    for name in names:
        data = files.get(name) if type(files) is dict else None
        check.true(type(data) is bytes, "a file is missing", given=name, got=data)
        (tmp_path / name).write_bytes(data)
    save_file({"tokens": calibration_tokens(1, 64)}, tmp_path / "tokens")
    out = str(tmp_path / "out")
    try:
        run_script("autogptq", "load", str(tmp_path), str(tmp_path / "tokens"), out, python=python)
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1]
        check.true(False, "auto-gptq cannot load and run it", got=last)
    found = load_file(out)
    for name, (codes, scales, zeros, g_idx) in layers.items():
        expected = reference.dequantize(codes, scales.half(), zeros, g_idx).float()
        check.equal(found.get(name), expected, given={"layer": name})
    check.tensor(found["logits"], shape=(1, 64, model.config.vocab_size))
    note(f"auto-gptq loaded and ran the checkpoint: {len(layers)} layers as written", "auto-gptq")


def test_layers_in_order(student, check, rng_seed):
    """Several layers are read by name, ascending."""
    layers = {name: random_quantized(rng_seed + i, 8, 16, 2) for i, name in enumerate("cab")}
    tensors = {
        f"{name}.{kind}": tensor
        for name, parts in layers.items()
        for kind, tensor in reference.pack(*parts).items()
    }
    got = student.gptq.read_layers(save(tensors))
    check.equal(list(got), ["a", "b", "c"], given={"layers": list(layers)})
    for name, parts in layers.items():
        check.equal(got[name], parts, given={"layer": name})
