"""Public tests of lab 03: numbers that fit on paper."""

from __future__ import annotations

import pytest
import torch

# -- absmax, packing, nf4, fp8 --


@pytest.mark.task("absmax")
def test_absmax_on_paper(student, check):
    """The largest magnitude gets the largest code; a half goes to the even integer."""
    x = torch.tensor([127.0, -127.0, 1.0, 0.5, 1.5, -2.5, 0.0])
    codes, scale = student.absmax.absmax_quantize(x)
    expected = torch.tensor([127, -127, 1, 0, 2, -2, 0], dtype=torch.int8)
    check.equal(codes, expected, given={"x": x})
    check.equal(scale, torch.tensor(1.0), given={"x": x})


@pytest.mark.task("packing")
def test_nibble_orders(student, check):
    """1 and 2 are the byte 0x21 low first, 0x12 high first."""
    codes = torch.tensor([1, 2], dtype=torch.uint8)
    for order, byte in (("low_first", 0x21), ("high_first", 0x12)):
        got = student.packing.pack_nibbles(codes, order)
        check.equal(got, torch.tensor([byte], dtype=torch.uint8), given={"order": order})


@pytest.mark.task("nf4")
def test_nf4_on_paper(student, check):
    """The largest magnitude and zero are met exactly; the first code is in the high four bits."""
    x = torch.tensor([8.0, 0.0, -8.0, 1.0])
    packed, absmax = student.nf4.quantize_nf4(x, 4)
    # Codes 15, 7, 0, and 9: 1/8 is nearer to 0.1609 than to 0.0796.
    check.equal(packed, torch.tensor([0xF7, 0x09], dtype=torch.uint8), given={"x": x})
    check.equal(absmax, torch.tensor([8.0]), given={"x": x})
    back = student.nf4.dequantize_nf4(packed, absmax, (4,), 4)
    check.close(back, torch.tensor([8.0, 0.0, -8.0, 8 * 0.1609302]), given={"x": x})


@pytest.mark.task("nf4")
def test_nf4_bits(student, check):
    """A scale for 64 weights is half a bit a weight; with double quantization it is less."""
    check.number(student.nf4.bits_per_weight(64), 4.5)
    check.number(student.nf4.bits_per_weight(64, 256), 4 + 8 / 64 + 32 / (64 * 256))


@pytest.mark.task("fp8")
@pytest.mark.parametrize(
    ("fmt", "x", "code"),
    [
        ("e4m3", 1.0, 0x38),  # exponent field 7, the bias
        ("e4m3", -448.0, 0xFE),
        ("e4m3", 17.0, 0x58),  # between 16 and 18: the even code
        ("e4m3", 1000.0, 0x7E),  # saturates
        ("e5m2", 1.0, 0x3C),
        ("e3m4", 0.015625, 0x01),  # the smallest subnormal: 2**(1 - 3 - 4)
    ],
)
def test_fp8_codes_on_paper(student, check, fmt, x, code):
    """A float's code is its sign, exponent and mantissa, rounded to the nearest, ties to even."""
    given = {"fmt": fmt, "x": x}
    codes = student.fp8.to_fp8(torch.tensor([x]), fmt)
    check.equal(codes, torch.tensor([code], dtype=torch.uint8), given=given)
    if x != 17.0 and x != 1000.0:
        check.equal(student.fp8.from_fp8(codes, fmt), torch.tensor([x]), given=given)


# -- llm_int8, awq, smoothquant --


@pytest.mark.task("llm_int8")
def test_outlier_column_on_paper(student, check):
    """The outlier's column gets code 0 in every row, and its neighbours keep their fine steps."""
    x = torch.tensor([[1.0, 60.0, -0.5], [2.0, 5.0, 4.0]])
    codes, scale, columns = student.llm_int8.quantize_rows(x, 6.0)
    given = {"x": x, "threshold": 6.0}
    check.equal(columns, torch.tensor([1]), given=given)
    # 60 is an outlier and does not count; 5 is none, and does: it is row 1's largest.
    check.equal(scale, torch.tensor([1.0, 5.0]), given=given)
    expected = torch.tensor([[127, 0, -64], [51, 0, 102]], dtype=torch.int8)
    check.equal(codes, expected, given=given)


@pytest.mark.task("llm_int8")
def test_both_parts_on_paper(student, check):
    """The int8 part and the outlier part add up to the product."""
    x = torch.tensor([[1.0, 60.0, -1.0]])
    w_codes = torch.tensor([[127, 127, 0], [0, 0, 127]], dtype=torch.int8)
    w_scale = torch.tensor([2.0, 0.5])  # so w is [[2, 2, 0], [0, 0, 0.5]]
    got = student.llm_int8.int8_matmul(x, w_codes, w_scale)
    check.close(got, torch.tensor([[122.0, -0.5]]), given={"x": x, "w": "[[2, 2, 0], [0, 0, 0.5]]"})


@pytest.mark.task("awq")
def test_channel_scales_on_paper(student, check):
    """Mean magnitudes 16 and 1 to the power 1/2 are 4 and 1; divided by sqrt(4 * 1), 2 and 1/2."""
    x = torch.tensor([[16.0, -2.0], [-16.0, 0.0]])
    got = student.awq.channel_scales(x, 0.5)
    check.close(got, torch.tensor([2.0, 0.5]), given={"x": x, "alpha": 0.5})


@pytest.mark.task("awq")
def test_a_loud_channel_gets_a_scale(student, check):
    """Where one channel is 50 times as loud as its weights are small, alpha is above 0."""
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    w = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    x[:, 3] *= 50
    w[:, 3] /= 50
    scales, alpha = student.awq.awq_scales(x, [w], 4, 16)
    check.true(alpha > 0, "alpha is 0", given={"loud channel": 3}, got=alpha)
    check.true(int(scales.argmax()) == 3, "another channel has the largest scale", got=scales)


@pytest.mark.task("awq")
def test_folding_on_paper(student, check):
    """The previous operation divides channel j by scale j, the weights' column j is multiplied."""
    scales = torch.tensor([2.0, 4.0])
    gain, w = torch.tensor([1.0, 1.0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    given = {"gain": gain, "previous": w, "weights": [w], "scales": scales}
    expected = torch.tensor([[2.0, 8.0], [6.0, 16.0]])
    new_gain, (new_w,) = student.awq.fold_into_norm(gain, [w], scales)
    check.equal(new_gain, torch.tensor([0.5, 0.25]), given=given)
    check.equal(new_w, expected, given=given)
    new_previous, (new_w,) = student.awq.fold_into_linear(w, [w], scales)
    check.equal(new_previous, torch.tensor([[0.5, 1.0], [0.75, 1.0]]), given=given)
    check.equal(new_w, expected, given=given)


@pytest.mark.task("smoothquant")
def test_smoothing_on_paper(student, check):
    """sqrt(16 / 4) is 2: both sides of the channel are then 8."""
    got = student.smoothquant.smoothing_scales(torch.tensor([16.0, 1.0]), torch.tensor([4.0, 1.0]))
    check.close(got, torch.tensor([2.0, 1.0]), given={"max|x|": [16, 1], "max|w|": [4, 1]})


@pytest.mark.task("smoothquant")
def test_w8a8_on_paper(student, check):
    """Numbers that are whole steps of their scales come out as they are."""
    x = torch.tensor([[127.0, -2.0], [0.0, 0.0]])
    w = torch.tensor([[12.7, 1.0], [-254.0, 2.0]])
    expected = torch.tensor([[1610.9, -32262.0], [0.0, 0.0]])
    check.close(student.smoothquant.w8a8_matmul(x, w), expected, given={"x": x, "w": w})


# -- gptq --


@pytest.mark.task("gptq")
def test_hessian_on_paper(student, check):
    """Tokens (1, 2), (3, 0) and (0, 1): 2/3 of [[10, 2], [2, 5]], however they are split."""
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    expected = torch.tensor([[20.0, 4.0], [4.0, 10.0]]) / 3
    for sizes in ([3], [1, 2]):
        check.close(student.gptq.hessian(list(x.split(sizes))), expected, given={"batches": sizes})


@pytest.mark.task("gptq")
def test_inverse_factor_on_paper(student, check):
    """The inverse of [[2, 1], [1, 2]] is [[2, -1], [-1, 2]] / 3; its factor is upper triangular."""
    h = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    root = 3**-0.5
    expected = torch.tensor([[2**0.5 * root, -(0.5**0.5) * root], [0.0, 0.5**0.5]])
    check.close(student.gptq.inverse_factor(h, damping=0.0), expected, given={"h": h})
    dead = torch.tensor([[4.0, 0.0], [0.0, 0.0]])  # 4 and 1, and a tenth of their mean on both
    expected = torch.diag(torch.tensor([4.25, 1.25]) ** -0.5)
    check.close(student.gptq.inverse_factor(dead, damping=0.1), expected, given={"h": dead})


@pytest.mark.task("gptq")
def test_error_is_made_up_for(student, check):
    """Two inputs that are always equal: what one weight loses, the other gains.

    The scale is 1 (from 7.5). 0.4 is rounded down to 0, so the next weight, 0.4 too, becomes
    almost 0.8 and is rounded up: 0 + 1 is nearer to 0.8 than 0 + 0.
    """
    w = torch.tensor([[0.4, 0.4, -7.5, 0.0]])
    h = torch.eye(4)
    h[0, 1] = h[1, 0] = 1.0
    codes, scales, zeros, g_idx = student.gptq.gptq_quantize(w, h, group_size=4)
    given = {"w": w, "h": "inputs 0 and 1 always equal"}
    check.equal(codes, torch.tensor([[8, 9, 0, 8]], dtype=torch.uint8), given=given)
    check.close(scales, torch.ones(1, 1), given=given)
    check.equal(zeros, torch.full((1, 1), 8, dtype=torch.uint8), given=given)
    check.equal(g_idx, torch.zeros(4, dtype=torch.int32), given=given)


@pytest.mark.task("gptq")
def test_act_order_on_paper(student, check):
    """The most active inputs are first and form the first group; codes stay in w's order."""
    w = torch.tensor([[7.5, 0.0, 15.0, 0.0]])
    h = torch.diag(torch.tensor([1.0, 4.0, 2.0, 3.0]))  # order 1, 3, 2, 0
    codes, scales, _, g_idx = student.gptq.gptq_quantize(w, h, group_size=2, act_order=True)
    given = {"w": w, "h": "diagonal 1, 4, 2, 3", "group_size": 2}
    check.equal(g_idx, torch.tensor([1, 0, 1, 0], dtype=torch.int32), given=given)
    check.close(scales, torch.tensor([[1.0, 2.0]]), given=given)
    check.equal(codes, torch.tensor([[12, 8, 15, 8]], dtype=torch.uint8), given=given)


@pytest.mark.task("gptq")
def test_dequantize_with_groups_out_of_order(student, check):
    """Columns 0 and 2 are of group 1 (scale 2, zero 8), column 1 of group 0 (scale 1, zero 3)."""
    got = student.gptq.gptq_dequantize(
        torch.tensor([[9, 5, 0]], dtype=torch.uint8),
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[3, 8]], dtype=torch.uint8),
        torch.tensor([1, 0, 1], dtype=torch.int32),
    )
    check.close(got, torch.tensor([[2.0, 2.0, -16.0]]))


@pytest.mark.task("gptq")
def test_checkpoint_is_read_back(student, check):
    """What is written as model.safetensors is read again as it was."""
    layer = (
        torch.arange(128, dtype=torch.uint8).reshape(8, 16) % 16,
        torch.full((8, 2), 0.25),
        torch.full((8, 2), 8, dtype=torch.uint8),
        torch.tensor([0, 1] * 8, dtype=torch.int32),
    )
    files = student.gptq.checkpoint_files(
        {"up_proj": layer}, {"norm.weight": torch.ones(3)}, {"model_type": "llama"}, group_size=8
    )
    check.equal(sorted(files), ["config.json", "model.safetensors", "quantize_config.json"])
    got = student.gptq.read_layers(files["model.safetensors"])
    check.equal(got, {"up_proj": layer})


# -- int4_kernel -----------------------------------------------------------------------------------


@pytest.mark.task("int4_kernel")
def test_int4_on_paper(student, check):
    """The low half of a byte is the even column, and every row has its own scale and zero."""
    packed = torch.full((3, 16), 0x39, dtype=torch.uint8)  # codes 9, 3, 9, 3, ...
    scales, zeros = torch.tensor([[1.0], [0.5], [2.0]]), torch.tensor([[8], [3], [9]]).byte()
    x = torch.zeros(1, 32)
    x[0, 0], x[0, 1] = 10.0, 1.0
    # rows: 10 (9 - 8) + (3 - 8); (10 (9 - 3) + 0) / 2; 2 (0 + (3 - 9))
    expected = torch.tensor([[5.0, 30.0, -12.0]])
    given = {"packed": packed, "scales": scales, "zeros": zeros, "x": x}
    got = student.int4_kernel.matmul_int4(x, packed, scales, zeros, 32)
    check.close(got, expected, rtol=1e-3, atol=1e-3, given=given)


# -- compare --


@pytest.mark.task("compare")
def test_bytes_on_paper(student, check):
    """A layer of 16 x 256 takes 4,096 weights times the bits of its format."""
    w = torch.linspace(-1, 1, 16 * 256).reshape(16, 256)
    for method, size in {
        "bf16": 4096 * 2,
        "int8": 4096 + 16 * 4,  # a scale for each row
        "int4": 4096 // 2 + 32 * 2 + 32 // 2,  # 32 groups: fp16 scales, zeros of four bits
        "nf4": 4096 // 2 + 64 * 4,  # 64 blocks
        "nf4-dq": 4096 // 2 + 64 + 4 + 4,
    }.items():
        stored = student.compare.store(w, method)
        check.equal(sum(part.nbytes for part in stored.values()), size, given={"method": method})
