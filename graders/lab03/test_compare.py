"""Hidden tests of lab 03's table: what each method stores, runs, and costs on the trained model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graders.lab03.reference_methods import relative_error
from graders.oracle.checks import CheckFailed
from labs.common.linears import READERS, exchanged, inner_linears, linear_inputs
from labs.common.perplexity import calibration_tokens, evaluation_tokens, perplexity
from labs.common.tiny_models import load_tiny

METHODS = (
    "bf16", "int8", "fp8", "int4", "int4-zp", "gptq", "awq", "nf4", "nf4-dq",
    "w8a8", "smoothquant", "llm_int8",
)  # fmt: skip
# name: relative error of the outputs of random layers, at least and at most. Four bits in groups of
# 128 normal numbers cost about 0.11, eight bits with a scale a row 0.006.
ERRORS = {
    "bf16": (0.0005, 0.003), "int8": (0.003, 0.012), "fp8": (0.012, 0.04),
    "int4": (0.08, 0.16), "int4-zp": (0.07, 0.15), "gptq": (0.02, 0.16), "awq": (0.07, 0.15),
    "nf4": (0.06, 0.13), "nf4-dq": (0.06, 0.13),
    "w8a8": (0.005, 0.03), "smoothquant": (0.005, 0.03), "llm_int8": (0.004, 0.03),
}  # fmt: skip
SHAPES = [(48, 256), (130, 768), (32, 128)]


def stored_bytes(rows: int, columns: int, method: str) -> int:
    """What a layer takes, counted on paper."""
    n, groups = rows * columns, rows * columns // 128
    blocks = -(-n // 64)
    return {
        "bf16": 2 * n,
        "nf4": n // 2 + 4 * blocks,
        "nf4-dq": n // 2 + blocks + 4 * -(-blocks // 256) + 4,
        **dict.fromkeys(("int4", "int4-zp", "gptq", "awq"), n // 2 + 2 * groups + groups // 2),
    }.get(method, n + 4 * rows)


def sizes(stored: Any) -> int:
    """Bytes of a dict of tensors, and nothing else in it."""
    if type(stored) is not dict or not all(type(part) is torch.Tensor for part in stored.values()):
        raise CheckFailed("store returns a dict of tensors", expected="dict of tensors", got=stored)
    return sum(part.nbytes for part in stored.values())


def sample(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and inputs that are coupled, as those of a model are."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=generator) * columns**-0.5
    mix = torch.randn(columns // 4, columns, generator=generator)
    x = torch.randn(192, columns // 4, generator=generator) @ mix * (4 / columns) ** 0.5
    return w, x + 0.3 * torch.randn(192, columns, generator=generator)


@pytest.mark.task("compare", weight=2)
@pytest.mark.parametrize("method", METHODS)
def test_stored_and_run(student, check, rng_seed, method):
    """A method stores no more than its format has, and runs from that alone, exactly enough."""
    for number, (rows, columns) in enumerate(SHAPES):
        w, x = sample(rows, columns, rng_seed + number)
        given = {"method": method, "w": f"[{rows}, {columns}]"}
        stored = student.compare.store(w, method, x)
        size = sizes(stored)
        check.equal(size, stored_bytes(rows, columns, method), given=given)
        got = student.compare.run(x, stored, method)
        exact = x.double() @ w.double().T
        got = check.tensor(got, shape=exact.shape, dtype=torch.float32, given=given)
        error = relative_error(got, exact)
        least, most = ERRORS[method]
        check.true(
            least <= error <= most, "the outputs are not those of this format",
            given=given, expected=f"a relative error of {least:g} to {most:g}", got=f"{error:.4g}",
        )  # fmt: skip


@pytest.mark.task("compare")
def test_stored_formats(student, check, rng_seed):
    """The stored tensors are those of the table: names, types, shapes, GPTQ's own codes."""
    rows, columns = 32, 256
    w, x = sample(rows, columns, rng_seed)
    codes8, groups = ((rows, columns), torch.int8), ((rows, 2), torch.float16)
    four = {
        "packed": ((rows, columns // 2), torch.uint8),
        "scales": groups,
        "zeros": ((rows,), torch.uint8),
    }
    eight = {"codes": codes8, "scale": ((rows, 1), torch.float32)}
    wanted = {
        "bf16": {"weight": ((rows, columns), torch.bfloat16)},
        **dict.fromkeys(("int8", "w8a8", "smoothquant"), eight),
        "llm_int8": {"codes": codes8, "scale": ((rows,), torch.float32)},
        "fp8": {"codes": ((rows, columns), torch.uint8), "scale": ((rows, 1), torch.float32)},
        **dict.fromkeys(("int4", "int4-zp", "gptq", "awq"), four),
        "nf4": {
            "packed": ((rows * columns // 2,), torch.uint8),
            "absmax": ((rows * columns // 64,), torch.float32),
        },
        "nf4-dq": {
            "packed": ((rows * columns // 2,), torch.uint8),
            "codes": ((rows * columns // 64,), torch.uint8),
            "absmax2": ((1,), torch.float32),
            "offset": ((), torch.float32),
        },
    }
    found = {}
    for method, parts in wanted.items():
        found[method] = stored = student.compare.store(w, method, x)
        sizes(stored)
        got = {k: (tuple(v.shape), v.dtype) for k, v in stored.items()}
        check.equal(got, parts, given={"method": method})
    # Symmetric groups have zero point 8, two to a byte; the others have points of their own.
    for method in ("int4", "gptq"):
        check.equal(found[method]["zeros"], torch.full((rows,), 0x88).byte(), given=method)
    for method in ("int4-zp", "awq"):
        zeros = found[method]["zeros"]
        check.true(len(zeros.unique()) > 3, "zero points of their own", given=method, got=zeros)
    for one, other in (("int4", "gptq"), ("nf4", "int4")):
        same = torch.equal(found[one]["packed"].flatten(), found[other]["packed"].flatten())
        check.true(not same, f"{one} and {other} have different codes")
    # Codes and scales as stored are the layer: column 2j is in the low half of byte j.
    packed, scales = found["int4"]["packed"], found["int4"]["scales"].float()
    codes = torch.stack((packed % 16, packed // 16), dim=-1).flatten(1).float()
    exact = (codes - 8) * scales.repeat_interleave(128, dim=1)
    check.close(
        student.compare.run(torch.eye(columns), found["int4"], "int4"), exact.T.contiguous(),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    # In W8A8 the inputs are rounded, too: to a token's own 255 steps.
    step = x.abs().amax(dim=1, keepdim=True) / 127
    for method, read in (
        ("int8", x), ("w8a8", (x / step).round() * step), ("smoothquant", (x / step).round() * step)
    ):  # fmt: skip
        weight = found[method]["codes"].float() * found[method]["scale"]
        check.close(
            student.compare.run(x, found[method], method), read @ weight.T, rtol=1e-3, atol=1e-3,
            given={"method": method},
        )  # fmt: skip
    with check.raises(ValueError, given="gptq without inputs"):
        student.compare.store(w, "gptq")
    with check.raises(ValueError, given="an unknown method"):
        student.compare.store(w, "int5", x)


@pytest.fixture
def tiny(run_cache):
    """The shipped target in the oracle, and what its layers read of a little text."""
    if "tiny" not in run_cache:
        model, _ = load_tiny("target")
        run_cache["tiny"] = model, linear_inputs(model, calibration_tokens(2, 96, seed=3))
    return run_cache["tiny"]


@pytest.mark.task("compare")
@pytest.mark.parametrize("method", ["smoothquant", "awq", "int4", "gptq"])
def test_folding(student, check, tiny, method):
    """Folding leaves the model's function as it was, and evens out what it is for."""
    model, inputs = tiny
    # Two blocks suffice, and are quicker to fold.
    weights = {
        name: tensor for name, tensor in model.state_dict().items()
        if ".layers." not in name or name.split(".")[2] in ("0", "5")
    }  # fmt: skip
    some = {name: x for name, x in inputs.items() if f"{name}.weight" in weights}
    folded = student.compare.fold(weights, method, some)
    check.true(type(folded) is dict and list(sorted(folded)) == sorted(weights), "all names kept")
    for name, tensor in weights.items():
        check.tensor(folded[name], shape=tensor.shape, dtype=tensor.dtype, given=name)
    changed = {name for name, tensor in weights.items() if not torch.equal(folded[name], tensor)}
    readers = [f"{norm}.weight" for norm in READERS]
    readers += [f"{reader}.weight" for names in READERS.values() for reader in names]
    if method == "awq":
        readers.append("mlp.down_proj.weight")
    wanted = {
        name for name in weights
        if method in ("smoothquant", "awq") and ".layers." in name and name.endswith(tuple(readers))
    }  # fmt: skip
    check.equal(sorted(changed), sorted(wanted), given={"method": method})
    tokens = calibration_tokens(1, 64, seed=9)
    with torch.no_grad():
        before = model(tokens).logits
        with exchanged(model, {**model.state_dict(), **folded}):
            after = model(tokens).logits
            if wanted:
                read = linear_inputs(model, tokens)["model.layers.0.self_attn.q_proj"].abs()
    check.close(after, before.double(), rtol=1e-3, atol=2e-3, given={"method": method})
    if wanted:
        plain = linear_inputs(model, tokens)["model.layers.0.self_attn.q_proj"].abs()
        check.true(
            float(read.max() / read.mean()) < 0.8 * float(plain.max() / plain.mean()),
            "the activations did not get more even",
            given={"method": method},
        )


@pytest.fixture
def rows(student, run_cache):
    """The submission's table over a little text; made once a run."""
    text = evaluation_tokens(rows=6), calibration_tokens(2, 96, seed=1)
    if "table" not in run_cache:
        run_cache["table"] = student.compare.table(list(METHODS), *text)
    return run_cache["table"]


def figure(check: Any, row: Any, name: str) -> float:
    """A number of a row."""
    value: Any = row.get(name) if type(row) is dict else None
    check.true(type(value) in (int, float), f"a row lacks {name}", expected="a number", got=row)
    return float(value)


@pytest.mark.task("compare", weight=2)
@pytest.mark.parametrize("method", ["bf16", "w8a8", "smoothquant"])
def test_table_as_measured(student, check, tiny, rows, method):
    """A row has the figures that the grader itself measures on the same layers."""
    model, _ = tiny
    tokens, calibration = evaluation_tokens(rows=6), calibration_tokens(2, 96, seed=1)
    check.true(
        type(rows) is list and [row.get("method") for row in rows] == list(METHODS),
        "a row for each method, in order", got=rows,
    )  # fmt: skip
    row = rows[METHODS.index(method)]
    folded = dict(model.state_dict())
    if method == "smoothquant":
        inputs = linear_inputs(model, calibration)
        for block in range(model.config.num_hidden_layers):  # a message has room for one
            inside = f"model.layers.{block}."
            some, read = (
                {name: part for name, part in whole.items() if name.startswith(inside)}
                for whole in (folded, inputs)
            )
            folded |= student.compare.fold(some, method, read)
    with exchanged(model, folded):
        inputs = linear_inputs(model, calibration)
    run, stored, errors = student.compare.run, {}, []
    for name in inner_linears(model):
        w, x = folded[f"{name}.weight"], inputs[name]
        stored[name] = student.compare.store(w, method, x)
        errors.append(relative_error(run(x, stored[name], method), x @ w.T))
    with exchanged(model, folded, lambda name, x: run(x, stored[name], method)):
        measured = perplexity(model, tokens).perplexity
    count = sum(module.weight.numel() for module in inner_linears(model).values())
    size = sum(stored_bytes(*layer.weight.shape, method) for layer in inner_linears(model).values())
    given = {"method": method}
    check.number(figure(check, row, "bytes"), size, given={**given, "figure": "bytes"})
    check.number(figure(check, row, "bits"), 8 * size / count, given={**given, "figure": "bits"})
    check.number(
        figure(check, row, "layer_error"), sum(errors) / len(errors), rel=0.03,
        given={**given, "figure": "layer_error"},
    )  # fmt: skip
    check.number(
        figure(check, row, "perplexity"), measured, rel=3e-4,
        given={**given, "figure": "perplexity"},
    )  # fmt: skip


# The first is better than the second times the factor, in layer error.
BETTER = [
    ("int8", "int4", 0.6), ("fp8", "int4", 0.5), ("nf4", "int4", 1.0), ("gptq", "int4", 1.0),
    ("awq", "int4-zp", 1.0), ("llm_int8", "w8a8", 0.8), ("smoothquant", "w8a8", 0.8),
]  # fmt: skip


@pytest.mark.task("compare")
def test_what_must_hold(check, note, tiny, rows):
    """Eight bits cost next to nothing, four little; each method improves on what it improves."""
    by = {row["method"]: row for row in rows}
    shapes = [layer.weight.shape for layer in inner_linears(tiny[0]).values()]
    for method, row in by.items():
        size = sum(stored_bytes(*shape, method) for shape in shapes)
        check.number(figure(check, row, "bytes"), size, given={"method": method})
    error = {method: figure(check, row, "layer_error") for method, row in by.items()}
    found = {method: figure(check, row, "perplexity") for method, row in by.items()}
    note(
        "perplexity: " + ", ".join(f"{method} {value:.3f}" for method, value in found.items()),
        **{f"{method} perplexity": value for method, value in found.items()},
    )
    for better, worse, factor in BETTER:
        check.true(
            error[better] < factor * error[worse],
            f"{better} does not improve on {worse}",
            expected=f"a layer error below {factor * error[worse]:.3g}", got=f"{error[better]:.3g}",
        )  # fmt: skip
    for method, value in found.items():
        most = 1.005 if method in ("int8", "fp8", "llm_int8", "smoothquant") else 1.03
        check.true(
            abs(value / found["bf16"] - 1) < most - 1,
            f"{method} costs more than it should",
            expected=f"within {most - 1:.1%} of bf16's {found['bf16']:.4g}", got=f"{value:.4g}",
        )  # fmt: skip
