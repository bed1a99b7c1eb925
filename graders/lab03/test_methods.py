"""Hidden tests of lab 03: LLM.int8, AWQ, SmoothQuant."""

from __future__ import annotations

import pytest
import torch

from graders.lab03 import reference_methods as reference

NAMES = ("rows", "in", "out")
alphas = pytest.mark.parametrize("alpha", [0.25, 0.5, 0.8])


def facts(shape: tuple[int, ...], **more: object) -> dict[str, object]:
    """What a message says about a case."""
    return {**dict(zip(NAMES, shape, strict=False)), **more}


def positive_scales(channels: int, seed: int) -> torch.Tensor:
    """fp32 [channels] between 1/8 and 8."""
    rng = torch.Generator().manual_seed(seed)
    return 8 ** (2 * torch.rand(channels, generator=rng) - 1)


# -- llm_int8 --------------------------------------------------------------------------------------


@pytest.mark.task("llm_int8", weight=3)
@pytest.mark.parametrize("case", range(20))
def test_rows_are_those_of_bitsandbytes(student, check, rng_seed, case):
    """Codes, scales and outlier columns are those of bitsandbytes, bit for bit."""
    shape = reference.shapes(20, 1)[case]
    threshold = (6.0, 0.0, 3.0, 1.5)[case % 4]
    x = reference.activations(*shape[:2], rng_seed, coarse=case % 3 == 0)
    codes, scale, columns = student.llm_int8.quantize_rows(x, threshold)
    expected = reference.bnb_rows(x, threshold)
    given = facts(shape[:2], threshold=threshold)
    check.equal(columns, expected[2], given=given)
    check.equal(scale, expected[1], given=given)
    codes = check.tensor(codes, shape=x.shape, dtype=torch.int8, given=given)
    some = expected[1] > 0  # else bitsandbytes casts NaN to int8, which each processor does its way
    check.equal(codes[some], expected[0][some], given=given)


@pytest.mark.task("llm_int8")
@pytest.mark.parametrize("case", range(20))
def test_weights_are_those_of_bitsandbytes(student, check, rng_seed, case):
    """A weight's codes and scales are those of bitsandbytes, bit for bit."""
    shape = reference.shapes(20, 2)[case]
    w = reference.weights(shape[2], shape[1], rng_seed) * 10.0 ** (case % 5 - 2)
    if case % 3 == 0:
        w = (w * 64).round() / 64
        w[:, 0] = 1.0
    codes, scale = student.llm_int8.quantize_weight(w)
    expected = reference.bnb_rows(w, 0.0)
    check.equal(scale, expected[1], given={"w": w})
    check.equal(codes, expected[0], given={"w": w})


@pytest.mark.task("llm_int8")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_threshold_belongs_to_the_outliers(student, check, dtype):
    """A magnitude of exactly the threshold is an outlier; what fp16 rounds to it is, too."""
    below = torch.tensor(6.0).nextafter(torch.tensor(0.0)) if dtype is torch.float32 else 5.9375
    x = torch.tensor([[1.0, -6.0, 2.0, 0.5, 3.0], [1.0, 0.0, 5.9375, float(below), 3.0]]).to(dtype)
    _, scale, columns = student.llm_int8.quantize_rows(x, 6.0)
    check.equal(columns, torch.tensor([1, 3] if dtype is torch.float32 else [1]), given={"x": x})
    check.equal(scale, torch.tensor([3.0, 5.9375]), given={"x": x})


@pytest.mark.task("llm_int8")
def test_rows_without_a_magnitude(student, check):
    """A row of zeros, or of outliers alone, has scale 0 and codes 0."""
    x = torch.tensor([[0.0, 0.0, 0.0], [7.0, -9.0, 8.0], [1.0, 0.0, -0.5]])
    for threshold, scales in ((6.0, [0.0, 0.0, 1.0]), (0.0, [0.0, 9.0, 1.0])):
        given = {"x": x, "threshold": threshold}
        codes, scale, columns = student.llm_int8.quantize_rows(x, threshold)
        check.equal(columns, torch.arange(3 if threshold else 0), given=given)
        check.equal(scale, torch.tensor(scales), given=given)
        expected = reference.rows_int8(x, threshold)[0]
        check.equal(codes, expected, given=given)
        w_codes = torch.tensor([[127, -3, 64]], dtype=torch.int8)
        out = student.llm_int8.int8_matmul(x, w_codes, torch.ones(1), threshold)
        parts = reference.int8_parts(x, w_codes, torch.ones(1), threshold)
        check.close(out, sum(parts), dtype=torch.float32, given=given)


@pytest.mark.task("llm_int8", weight=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", range(6))
def test_product(student, check, rng_seed, dtype, case):
    """The product is the int8 part plus the outlier part, each column in exactly one of them."""
    shape = reference.shapes(12, 3)[case + 4]
    threshold = (6.0, 3.0, 0.0)[case % 3]
    x = reference.activations(*shape[:2], rng_seed).to(dtype)
    w_codes, w_scale, _ = reference.rows_int8(reference.weights(shape[2], shape[1], rng_seed), 0.0)
    got = student.llm_int8.int8_matmul(x, w_codes, w_scale, threshold)
    inner, outer = reference.int8_parts(x, w_codes, w_scale, threshold)
    # Relative to the larger part: the two may cancel.
    size = float(torch.maximum(inner.abs(), outer.abs()).max())
    error = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    given = facts(shape, threshold=threshold, dtype=str(dtype))
    check.close(got, inner + outer, dtype=dtype, rtol=error, atol=error * size, given=given)


@pytest.mark.task("llm_int8")
def test_default_threshold(student, check, rng_seed):
    """Left out, the threshold is 0 for quantizing and 6 for multiplying."""
    x = reference.activations(9, 61, rng_seed)
    check.equal(student.llm_int8.quantize_rows(x)[2], torch.empty(0, dtype=torch.int64))
    w_codes, w_scale, _ = reference.rows_int8(reference.weights(7, 61, rng_seed), 0.0)
    expected = sum(reference.int8_parts(x, w_codes, w_scale, 6.0))
    got = student.llm_int8.int8_matmul(x, w_codes, w_scale)
    check.close(got, expected, atol=1e-4, dtype=torch.float32, given=facts((9, 61, 7)))


@pytest.mark.task("llm_int8")
def test_beyond_fp16(student, check, rng_seed):
    """An activation too large for fp16 is an outlier like any other."""
    x = reference.activations(5, 40, rng_seed)
    x[3, 7] = 131_072.0
    w_codes, w_scale, _ = reference.rows_int8(reference.weights(6, 40, rng_seed), 0.0)
    got = student.llm_int8.int8_matmul(x, w_codes, w_scale, 6.0)
    inner, outer = reference.int8_parts(x, w_codes, w_scale, 6.0)
    rest = [0, 1, 2, 4]
    got = check.tensor(got, shape=inner.shape, dtype=torch.float32)
    check.close(got[rest], (inner + outer)[rest], rtol=1e-5, atol=1e-4)
    check.close(got[3], (inner + outer)[3], rtol=1e-5, atol=1.0)


@pytest.mark.task("llm_int8")
@pytest.mark.parametrize("length", [1500, 20_000, 100_000])
def test_sums_are_exact(student, check, rng_seed, length):
    """Products of codes are added up without rounding or overflow, however long the row."""
    x, w, product = reference.long_codes(length, rng_seed)
    got = student.llm_int8.int8_matmul(x.float(), w.to(torch.int8), torch.full((3,), 127.0), 0.0)
    check.close(got, product.double(), rtol=1e-6, atol=1e-3, dtype=torch.float32,
                given={"in": length, "largest partial sum": f"{length * 8000:.1e}"})  # fmt: skip


@pytest.mark.task("llm_int8", weight=2)
def test_shipped_model(student, check, note):
    """On the shipped model's layers the products are those of bitsandbytes' layer."""
    errors = {"with": [], "without": [], "bitsandbytes": []}
    for layer in reference.shipped_layers()[::3]:
        w = torch.cat(layer.weights)
        codes, scale = student.llm_int8.quantize_weight(w)
        exact = layer.x.double() @ w.double().T
        for threshold, name in ((6.0, "with"), (0.0, "without")):
            got = student.llm_int8.int8_matmul(layer.x, codes, scale, threshold)
            theirs = reference.bnb_linear(layer.x, w, threshold)
            # Their CPU code has 6.200124e-05 for 1 / 127**2, which is 2e-5 too much.
            size = float(theirs.abs().max())
            given = {"layer": layer.name, "threshold": threshold}
            check.close(got, theirs, rtol=1e-4, atol=1e-4 * size, given=given)
            errors[name].append(reference.relative_error(got, exact))
            if threshold:
                errors["bitsandbytes"].append(reference.relative_error(theirs, exact))
    mean = {name: sum(values) / len(values) for name, values in errors.items()}
    note(
        f"error of the shipped model's layers: {mean['with']:.4f} with outliers apart "
        f"(bitsandbytes: {mean['bitsandbytes']:.4f}), {mean['without']:.4f} without",
        threshold_6=mean["with"], bitsandbytes=mean["bitsandbytes"], threshold_0=mean["without"],
    )  # fmt: skip
    check.true(mean["with"] < 0.6 * mean["without"], "outliers apart do not help")


@pytest.mark.task("llm_int8")
def test_int8_refuses(student, check):
    """What is no matrix, and sizes that do not fit, are refused."""
    module = student.llm_int8
    with check.raises(ValueError, given={"x": "shape [3]"}):
        module.quantize_rows(torch.ones(3))
    with check.raises(ValueError, given={"x": "shape [2, 3, 4]"}):
        module.int8_matmul(torch.ones(2, 3, 4), torch.ones(5, 4, dtype=torch.int8), torch.ones(5))
    with check.raises(ValueError, given={"in": "3 and 4"}):
        module.int8_matmul(torch.ones(2, 3), torch.ones(5, 4, dtype=torch.int8), torch.ones(5))
    with check.raises(ValueError, given={"w": "shape [2, 3, 4]"}):
        module.quantize_weight(torch.ones(2, 3, 4))


# -- awq -------------------------------------------------------------------------------------------


@pytest.mark.task("awq")
@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_channel_scales(student, check, rng_seed, alpha):
    """Scales are the mean magnitude to the power alpha, and lie around 1."""
    for tokens, channels in ((1, 5), (7, 33), (40, 64)):
        x = reference.activations(tokens, channels, rng_seed + tokens)
        got = student.awq.channel_scales(x, alpha)
        expected = reference.awq_channel_scales(x, alpha)
        check.close(got, expected, rtol=1e-4, atol=0, dtype=torch.float32,
                    given={"tokens": tokens, "in": channels, "alpha": alpha})  # fmt: skip


@pytest.mark.task("awq")
def test_dead_channels(student, check, rng_seed):
    """A channel that is always 0 has a finite scale above 0."""
    x = reference.activations(9, 24, rng_seed)
    x[:, [0, 11]] = 0
    for alpha in (0.0, 0.3, 0.9):
        got = student.awq.channel_scales(x, alpha)
        expected = reference.awq_channel_scales(x, alpha)
        check.close(got, expected, rtol=1e-4, atol=0, dtype=torch.float32, given={"alpha": alpha})
    scales, _ = student.awq.awq_scales(x, [reference.weights(5, 24, rng_seed)], 4, 12)
    check.true(bool((check.tensor(scales, shape=(24,)) > 0).all()), "a scale is not above 0")


@pytest.mark.task("awq", weight=2)
@pytest.mark.parametrize("symmetric", [False, True], ids=["zero points", "symmetric"])
@pytest.mark.parametrize("bits, group", [(4, 16), (3, 32), (4, 96), (8, 8)])
def test_effective_weight(student, check, rng_seed, bits, group, symmetric):
    """The layer computes with what scaling, rounding in groups and scaling back leave."""
    w = reference.weights(23, 96, rng_seed) + 0.02
    scales = positive_scales(96, rng_seed)
    given = {"bits": bits, "group size": group, "symmetric": symmetric}
    got = student.awq.effective_weight(w, scales, bits, group, symmetric)
    got = check.tensor(got, shape=w.shape, dtype=torch.float32, given=given)
    expected, between = reference.awq_weight(w, scales, bits, group, symmetric)
    # A weight in the middle between two codes may go either way.
    check.close(got.where(~between, 0.0), expected.where(~between, 0.0), given=given)


CASES = [  # tokens, in, outputs of each layer, bits, group size, grid, symmetric
    (64, 64, (24,), 4, 32, 20, False),
    (33, 96, (17, 9, 9), 4, 48, 20, False),
    (50, 128, (31, 8), 3, 128, 7, True),
    (21, 60, (12, 40), 4, 12, 10, False),
    (90, 64, (8, 8, 8), 2, 16, 20, True),
    (1, 32, (16,), 4, 32, 20, False),
]


@pytest.mark.task("awq", weight=4)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_search(student, check, rng_seed, case):
    """Of all alphas of the grid, the one with the least error of all outputs together is found."""
    tokens, channels, outputs, bits, group, grid, symmetric = case
    for seed in range(rng_seed, rng_seed + 3):
        x = reference.activations(tokens, channels, seed)
        x[:, ::7] = x[:, ::7].abs() * 3  # with a mean that is not 0, as real channels have
        # Each layer of another size: it is the sum over all outputs that counts.
        matrices = [
            reference.weights(rows, channels, seed + k) * (1, 6, 0.3)[k]
            for k, rows in enumerate(outputs)
        ]
        matrices[-1][:, x.abs().mean(0) > 2] *= 0.05
        got, alpha = student.awq.awq_scales(x, matrices, bits, group, grid, symmetric)
        given = {"x": x, "outputs": outputs, "bits": bits, "group size": group, "grid": grid,
                 "symmetric": symmetric}  # fmt: skip
        check.true(type(alpha) is float, "alpha is no float", given=given, got=alpha)
        index = round(alpha * grid)
        check.true(0 <= index < grid, "alpha is outside of 0 to (grid - 1) / grid", given=given,
                   got=alpha)  # fmt: skip
        check.number(alpha, index / grid, rel=1e-6, abs=1e-9, given=given)
        expected = reference.awq_channel_scales(x, index / grid)
        check.close(got, expected, rtol=1e-4, atol=0, dtype=torch.float32, given=given)
        losses = reference.awq_losses(x, matrices, bits, group, grid, symmetric)
        best = losses.index(min(losses))
        check.true(losses[index] <= min(losses) * 1.01, "another alpha has less error",
                   given=given, expected=best / grid, got=alpha)  # fmt: skip


@pytest.mark.task("awq", weight=2)
@pytest.mark.parametrize("readers", [1, 3])
def test_fold_into_norm(student, check, rng_seed, readers):
    """Folding into a norm divides its gain once, scales every reader, and changes no output."""
    rng = torch.Generator().manual_seed(rng_seed)
    x, gain = torch.randn(11, 37, generator=rng), torch.randn(37, generator=rng) + 2
    scales = positive_scales(37, rng_seed)
    weights = [reference.weights(5 + k, 37, rng_seed + k) for k in range(readers)]
    given = {"in": 37, "layers": readers}
    new_gain, new_weights = student.awq.fold_into_norm(gain, weights, scales)
    check.true(len(new_weights) == readers, "a layer is missing", given=given)
    check.close(new_gain, gain.double() / scales, dtype=torch.float32, rtol=1e-5, given=given)
    normed = x.double() / x.double().square().mean(1, keepdim=True).sqrt()
    for old, new in zip(weights, new_weights, strict=True):
        check.close(new, old.double() * scales, dtype=torch.float32, rtol=1e-5, given=given)
        out = (normed * new_gain.double()) @ new.double().T
        check.true(
            reference.relative_error(out, (normed * gain.double()) @ old.double().T) < 1e-5,
            "folding changed the layer's function", given=given,
        )  # fmt: skip


@pytest.mark.task("awq", weight=2)
def test_fold_into_linear(student, check, rng_seed):
    """Folding into a linear layer divides its rows, and the gated MLP stays the same function."""
    rng = torch.Generator().manual_seed(rng_seed)
    x = torch.randn(9, 24, generator=rng, dtype=torch.float64)
    gate, up = (reference.weights(24, 24, rng_seed + k) for k in range(2))  # square: no shape tells
    downs = [reference.weights(7 + k, 24, rng_seed + 2 + k) for k in range(2)]
    scales = positive_scales(24, rng_seed)
    new_up, new_downs = student.awq.fold_into_linear(up, downs, scales)
    check.close(new_up, up.double() / scales.double()[:, None], dtype=torch.float32, rtol=1e-5)
    check.true(len(new_downs) == 2, "a layer is missing")
    gated = torch.nn.functional.silu(x @ gate.double().T)
    for old, new in zip(downs, new_downs, strict=True):
        check.close(new, old.double() * scales, dtype=torch.float32, rtol=1e-5)
        out = (gated * (x @ new_up.double().T)) @ new.double().T
        expected = (gated * (x @ up.double().T)) @ old.double().T
        error = reference.relative_error(out, expected)
        check.true(error < 1e-5, "folding changed the MLP's function", got=error)


@pytest.mark.task("awq")
def test_fold_keeps_dtypes(student, check):
    """What was bf16 or fp16 stays so, computed in fp32 and rounded once."""
    scales = torch.tensor([0.5, 3.0, 8.0, 0.7])
    gain = torch.tensor([1.0, 2.5, -3.0, 0.3]).to(torch.bfloat16)
    w = torch.tensor([[1.0, -2.0, 0.1, 5.0]] * 2).to(torch.float16)
    square = (torch.arange(16.0).reshape(4, 4) / 7).to(torch.bfloat16)
    expected = (w.float() * scales).half()
    new_gain, (new_w,) = student.awq.fold_into_norm(gain, [w], scales)
    check.equal(new_gain, (gain.float() / scales).bfloat16(), given={"gain": gain})
    check.equal(new_w, expected, given={"w": w})
    new_square, (new_w,) = student.awq.fold_into_linear(square, [w], scales)
    check.equal(new_square, (square.float() / scales[:, None]).bfloat16(), given={"w": square})
    check.equal(new_w, expected, given={"w": w})


@pytest.mark.task("awq")
def test_awq_refuses(student, check):
    """No weights, no grid, and sizes that do not fit are refused."""
    awq, w = student.awq, torch.ones(3, 8)
    with check.raises(ValueError, given={"weights": []}):
        awq.awq_scales(torch.ones(2, 8), [], 4, 4)
    with check.raises(ValueError, given={"grid": 0}):
        awq.awq_scales(torch.ones(2, 8), [w], 4, 4, 0)
    with check.raises(ValueError, given={"in": 8, "group size": 3}):
        awq.awq_scales(torch.ones(2, 8), [w], 4, 3)
    for gain, matrix in ((torch.ones(8), torch.ones(3, 1)), (torch.ones(1), w)):
        with check.raises(ValueError, given={"gain": gain, "w": matrix, "scales": 8}):
            awq.fold_into_norm(gain, [w, matrix], torch.ones(8))
    with check.raises(ValueError, given={"previous": "1 row", "scales": 8}):
        awq.fold_into_linear(torch.ones(1, 5), [w], torch.ones(8))


@pytest.mark.task("awq", weight=2)
def test_awq_on_the_shipped_model(student, check, note):
    """Scaled, folded and rounded, the shipped model's layers err less than rounded as they are."""
    plain, scaled = [], []
    for layer in reference.shipped_layers()[::3]:
        scales, _ = student.awq.awq_scales(layer.x, layer.weights)
        gain, matrices = student.awq.fold_into_norm(layer.gain, layer.weights, scales)
        for matrix in (gain, *matrices):
            check.tensor(matrix, dtype=torch.float32, given={"layer": layer.name})
        exact = layer.x.double() @ torch.cat(layer.weights).double().T
        x = layer.before.double() * gain.double()
        rounded, _ = reference.round_groups(torch.cat(matrices), 4, 128, False)
        as_it_is, _ = reference.round_groups(torch.cat(layer.weights), 4, 128, False)
        scaled.append(reference.relative_error(x @ rounded.T, exact))
        plain.append(reference.relative_error(layer.x.double() @ as_it_is.T, exact))
        check.true(scaled[-1] < plain[-1], "scales did not help", given={"layer": layer.name})
    before, after = (sum(errors) / len(errors) for errors in (plain, scaled))
    note(f"error of the shipped model's layers in 4 bits: {after:.4f} with AWQ, {before:.4f} as "
         "they are", awq=after, as_they_are=before)  # fmt: skip
    check.true(after < 0.8 * before, "AWQ takes away less than a fifth of the error")


# -- smoothquant -----------------------------------------------------------------------------------


@pytest.mark.task("smoothquant")
def test_channel_absmax(student, check, rng_seed):
    """Each channel's largest magnitude, over all matrices and whatever its sign."""
    matrices = [reference.activations(3 + k, 29, rng_seed + k) - 1 for k in range(3)]
    for given in (matrices[:1], matrices):
        got = student.smoothquant.channel_absmax(given)
        check.equal(got, reference.absmax_columns(given).float(), given={"matrices": len(given)})


@pytest.mark.task("smoothquant")
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_smoothing_scales(student, check, rng_seed, alpha):
    """Scales are max|x| ** alpha / max|w| ** (1 - alpha), finite and above 0 for dead channels."""
    x = reference.absmax_columns([reference.activations(20, 31, rng_seed)])
    w = reference.absmax_columns([reference.weights(20, 31, rng_seed)])
    x[3], w[3], x[8], w[20] = 0, 0, 0, 0
    got = student.smoothquant.smoothing_scales(x.float(), w.float(), alpha)
    expected = reference.smoothing(x.float(), w.float(), alpha)
    check.close(got, expected, rtol=1e-4, atol=0, dtype=torch.float32, given={"alpha": alpha})
    if alpha == 0.5:
        got = student.smoothquant.smoothing_scales(x.float(), w.float())
        check.close(got, expected, rtol=1e-4, atol=0, dtype=torch.float32)


@pytest.mark.task("smoothquant", weight=2)
@alphas
def test_smooth(student, check, rng_seed, alpha):
    """Smoothing uses the scales of all readers together, and changes no output."""
    x = reference.activations(15, 41, rng_seed).double()
    gain = torch.randn(41, generator=torch.Generator().manual_seed(rng_seed)) + 3
    matrices = [reference.weights(4 + k, 41, rng_seed + k) * (1 + 2 * k) for k in range(3)]
    x_absmax = reference.absmax_columns([x * gain]).float()
    new_gain, new, scales = student.smoothquant.smooth(gain, matrices, x_absmax, alpha)
    expected = reference.smoothing(x_absmax, reference.absmax_columns(matrices), alpha)
    given = {"alpha": alpha, "layers": 3}
    check.close(scales, expected, rtol=1e-4, atol=0, dtype=torch.float32, given=given)
    check.close(new_gain, gain / scales.double(), dtype=torch.float32, given=given)
    check.true(len(new) == 3, "a layer is missing", given=given)
    for old, now in zip(matrices, new, strict=True):
        check.close(now, old * scales.double(), dtype=torch.float32, given=given)
        out = (x * new_gain.double()) @ now.double().T
        error = reference.relative_error(out, (x * gain.double()) @ old.double().T)
        check.true(error < 1e-5, "smoothing changed the layer's function", given=given)


@pytest.mark.task("smoothquant")
def test_smooth_keeps_dtypes(student, check):
    """What was bf16 or fp16 stays so, computed in fp32 and rounded once."""
    gain = torch.tensor([1.0, 2.5, -3.0]).to(torch.bfloat16)
    w = torch.tensor([[1.0, -2.0, 0.1], [0.2, 4.0, -0.3]]).to(torch.float16)
    x_absmax = torch.tensor([3.0, 0.7, 11.0])
    new_gain, (new_w,), scales = student.smoothquant.smooth(gain, [w], x_absmax)
    scales = check.tensor(scales, shape=(3,), dtype=torch.float32)
    check.equal(new_gain, (gain.float() / scales).bfloat16(), given={"gain": gain})
    check.equal(new_w, (w.float() * scales).half(), given={"w": w})


@pytest.mark.task("smoothquant", weight=2)
@pytest.mark.parametrize("shape", [(1, 3, 2), (7, 33, 5), (19, 128, 31), (64, 57, 20)], ids=str)
def test_w8a8(student, check, rng_seed, shape):
    """A scale for each token and one for each output; rows of zeros give 0."""
    x = reference.activations(*shape[:2], rng_seed)
    w = reference.weights(shape[2], shape[1], rng_seed) * positive_scales(shape[2], 0)[:, None]
    x[0] *= 100
    if shape[0] > 1:
        x[1], w[-1] = 0, 0
    got = student.smoothquant.w8a8_matmul(x, w)
    expected = reference.w8a8(x, w)
    check.close(got, expected, rtol=1e-5, atol=1e-5, dtype=torch.float32, given=facts(shape))


@pytest.mark.task("smoothquant")
@pytest.mark.parametrize("length", [1500, 20_000, 100_000])
def test_w8a8_sums_are_exact(student, check, rng_seed, length):
    """Products of codes are added up without rounding or overflow, however long the row."""
    x, w, product = reference.long_codes(length, rng_seed)
    got = student.smoothquant.w8a8_matmul(x.float(), w.float())
    check.close(got, product.double(), rtol=1e-6, atol=1e-3, dtype=torch.float32,
                given={"in": length, "largest partial sum": f"{length * 8000:.1e}"})  # fmt: skip


@pytest.mark.task("smoothquant", weight=2)
def test_smoothquant_on_the_shipped_model(student, check, note):
    """Smoothed, the shipped model's layers err less in W8A8 than as they are."""
    plain, smoothed = [], []
    for layer in reference.shipped_layers()[::3]:
        given = {"layer": layer.name}
        x_absmax = student.smoothquant.channel_absmax([layer.x])
        gain, matrices, _ = student.smoothquant.smooth(layer.gain, layer.weights, x_absmax)
        for matrix in (gain, *matrices):
            check.tensor(matrix, dtype=torch.float32, given=given)
        w = torch.cat(layer.weights)
        exact = layer.x.double() @ w.double().T
        for errors, x, weight in (
            (plain, layer.x, w),
            (smoothed, layer.before * gain, torch.cat(matrices)),
        ):
            out = check.tensor(
                student.smoothquant.w8a8_matmul(x, weight), shape=exact.shape, given=given
            )
            errors.append(reference.relative_error(out, exact))
        check.true(smoothed[-1] < plain[-1], "smoothing did not help", given=given)
    before, after = (sum(errors) / len(errors) for errors in (plain, smoothed))
    note(f"error of the shipped model's layers in W8A8: {after:.4f} smoothed, {before:.4f} as "
         "they are", smoothed=after, as_they_are=before)  # fmt: skip
    check.true(after < 0.5 * before, "smoothing takes away less than half of the error")
