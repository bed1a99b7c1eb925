"""Hidden tests of lab 03's arithmetic: integers, packing, NF4 and FP8."""

from __future__ import annotations

import math

import pytest
import torch

from graders.lab03 import reference_arithmetic as reference
from graders.lab03.reference_arithmetic import randint, randn
from graders.oracle.proxy import StudentError

# Half a step, and what fp32 division and multiplication may add to it.
HALF = 0.5 * (1 + 1e-4)
BITS = pytest.mark.parametrize("bits", [8, 4, 2, 5])
# A shape, and the axis that has the scales.
AXES = [((5,), None), ((3, 7), None), ((3, 7), 0), ((3, 7), 1), ((2, 5, 3), 1), ((4, 1, 3), -1)]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def per_slice(seed: int, *shape: int) -> torch.Tensor:
    """Random numbers whose rows and columns differ in size by powers of ten."""
    x = randn(seed, *shape)
    for k, n in enumerate(shape):
        sizes = [1] * len(shape)
        sizes[k] = n
        x = x * 10 ** (torch.arange(n) % 4 - 1.0).reshape(sizes)
    return x


def within(check, x, codes, scale, zero, given, top: int | None = None) -> None:
    """No number is further than half a step from what its code stands for, in fp64.

    With a zero point two roundings meet at the limits of the range, codes 0 and ``top``: up to a
    whole step there.
    """
    error = ((codes.double() - zero) * scale.double() - x.double()).abs() / scale.double()
    allowed = torch.full_like(error, HALF)
    if top is not None:
        allowed[(codes == 0) | (codes == top)] = 2 * HALF
    if bool((error > allowed).any()):
        worst = float(error[error > allowed].max())
        message = f"not the nearest code: off by {worst:.4g} steps of the scale"
        check.true(False, message, given=given, got=codes)


# -- absmax ----------------------------------------------------------------------------------------


@pytest.mark.task("absmax", weight=2)
@BITS
@pytest.mark.parametrize("shape, axis", AXES, ids=str)
def test_symmetric(student, check, rng_seed, bits, shape, axis):
    """Symmetric codes are the nearest ones, with one scale, max|x| / limit, for each slice."""
    x = per_slice(rng_seed, *shape)
    given = {"x": x, "bits": bits, "axis": axis}
    codes, scale = student.absmax.absmax_quantize(x, bits, axis)
    codes = check.tensor(codes, shape=shape, dtype=torch.int8, given=given)
    expected = reference.symmetric_scales(x, bits, axis)
    check.close(scale, expected, rtol=1e-6, atol=0, dtype=torch.float32, given=given)
    limit = 2 ** (bits - 1) - 1
    check.true(int(codes.abs().max()) == limit, f"the largest code is not {limit}", given=given)
    within(check, x, codes, scale, 0, given)
    negative, _ = student.absmax.absmax_quantize(-x, bits, axis)
    check.equal(negative, -codes, given={"x": -x, "bits": bits, "axis": axis})


@pytest.mark.task("absmax")
@BITS
def test_symmetric_ties(student, check, bits):
    """A half goes to the even code, on both sides of zero."""
    limit = 2 ** (bits - 1) - 1
    x = torch.arange(-2 * limit, 2 * limit + 1) / 2
    codes, scale = student.absmax.absmax_quantize(x, bits)
    given = {"x": x, "bits": bits}
    check.equal(scale, torch.tensor(1.0), given=given)
    check.equal(codes, torch.tensor([round(v) for v in x.tolist()], dtype=torch.int8), given=given)


@pytest.mark.task("absmax", weight=2)
@BITS
@pytest.mark.parametrize("shape, axis", AXES, ids=str)
def test_zero_point(student, check, rng_seed, bits, shape, axis):
    """Zero-point codes are the nearest ones in the range from min(x, 0) to max(x, 0)."""
    for shift in (0.0, 0.7, -30.0, 2000.0):
        x = per_slice(rng_seed, *shape) + shift
        given = {"x": x, "bits": bits, "axis": axis}
        codes, scale, zero = student.absmax.zero_point_quantize(x, bits, axis)
        codes = check.tensor(codes, shape=shape, dtype=torch.uint8, given=given)
        scales, exact = reference.ranges(x, bits, axis)
        check.close(scale, scales, rtol=1e-6, atol=0, dtype=torch.float32, given=given)
        zero = check.tensor(zero, shape=scales.shape, dtype=torch.float32, given=given)
        check.true(torch.equal(zero, zero.round()), "a zero point is no whole number", given=given)
        near = float((zero.double() - exact).abs().max()) <= HALF
        check.true(near, "not -lo / scale, rounded", given=given, expected=exact, got=zero)
        top = 2**bits - 1
        inside = int(codes.max()) <= top and 0 <= float(zero.min()) and float(zero.max()) <= top
        check.true(inside, f"a code or a zero point is outside 0..{top}", given=given)
        within(check, x, codes, scale, zero, given, top)


@pytest.mark.task("absmax")
def test_zero_point_ties(student, check):
    """A half goes to the even integer before the zero point is added."""
    for lo in (0, -3, -4):
        x = torch.arange(2 * lo, 2 * (15 + lo) + 1) / 2
        codes, scale, zero = student.absmax.zero_point_quantize(x, 4)
        given = {"x": x, "bits": 4}
        check.equal(scale, torch.tensor(1.0), given=given)
        check.equal(zero, torch.tensor(float(-lo)), given=given)
        expected = torch.tensor([round(v) - lo for v in x.tolist()], dtype=torch.uint8)
        check.equal(codes, expected, given=given)


@pytest.mark.task("absmax")
def test_zero_is_exact(student, check, rng_seed):
    """0 comes back as exactly 0, also where all other numbers have one sign."""
    x = torch.cat([randn(rng_seed, 40).abs() + 1, torch.zeros(3)])
    for numbers in (x, -x):
        for bits in (3, 8):
            codes, scale, zero = student.absmax.zero_point_quantize(numbers, bits)
            back = student.absmax.dequantize(codes, scale, zero)
            back = check.tensor(back, shape=x.shape, dtype=torch.float32, given={"x": numbers})
            check.equal(back[-3:], torch.zeros(3), given={"x": numbers, "bits": bits})
    for value in (3.0, -0.125):
        numbers = torch.full((2, 5), value)
        back = student.absmax.dequantize(*student.absmax.zero_point_quantize(numbers))
        check.close(back, numbers, rtol=1e-6, atol=0, given={"x": numbers})


@pytest.mark.task("absmax", weight=2)
def test_zeros(student, check, rng_seed):
    """A slice of zeros has scale 1 and comes back as zeros; its neighbours do not notice."""
    x = randn(rng_seed, 3, 6)
    x[1] = 0
    given = {"x": x, "axis": 0}
    for numbers, axis in ((torch.zeros(2, 3), None), (x, 0)):
        codes, scale = student.absmax.absmax_quantize(numbers, 8, axis)
        scale = check.tensor(scale, dtype=torch.float32, given=given)
        check.equal(scale.reshape(-1)[len(scale.reshape(-1)) // 2], torch.tensor(1.0), given=given)
        back = check.tensor(student.absmax.dequantize(codes, scale), shape=numbers.shape)
        check.true(not back[1].any(), "zeros did not come back as zeros", given=given, got=back)
        codes, scale, zero = student.absmax.zero_point_quantize(numbers, 8, axis)
        scale = check.tensor(scale, dtype=torch.float32, given=given)
        check.equal(scale.reshape(-1)[len(scale.reshape(-1)) // 2], torch.tensor(1.0), given=given)
        back = check.tensor(student.absmax.dequantize(codes, scale, zero), shape=numbers.shape)
        check.true(not back[1].any(), "zeros did not come back as zeros", given=given, got=back)


@pytest.mark.task("absmax")
def test_tiny(student, check):
    """Numbers so small that the scale would be 0 in fp32 have scale 1 and code 0."""
    x = torch.tensor([1e-45, -3e-45, 0.0])
    codes, scale = student.absmax.absmax_quantize(x)
    check.equal(scale, torch.tensor(1.0), given={"x": x})
    check.equal(codes, torch.zeros(3, dtype=torch.int8), given={"x": x})
    codes, scale, zero = student.absmax.zero_point_quantize(x)
    check.equal(scale, torch.tensor(1.0), given={"x": x})
    check.true(bool((codes == zero).all()), "codes other than the zero point's", given={"x": x})


@pytest.mark.task("absmax")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_fp32_arithmetic(student, check, rng_seed, dtype):
    """16-bit numbers are quantized in fp32: scales are fp32, codes those of the fp32 numbers."""
    x = randn(rng_seed, 6, 50).to(dtype)
    given = {"x": x}
    for axis in (None, 0):
        codes, scale = student.absmax.absmax_quantize(x, 8, axis)
        expected = reference.symmetric_scales(x, 8, axis)
        check.close(scale, expected, rtol=1e-6, atol=0, dtype=torch.float32, given=given)
        within(check, x, check.tensor(codes, shape=x.shape, dtype=torch.int8), scale, 0, given)
        codes, scale, zero = student.absmax.zero_point_quantize(x, 8, axis)
        expected, _ = reference.ranges(x, 8, axis)
        check.close(scale, expected, rtol=1e-6, atol=0, dtype=torch.float32, given=given)
        codes = check.tensor(codes, shape=x.shape, dtype=torch.uint8)
        within(check, x, codes, scale, check.tensor(zero, dtype=torch.float32), given, 255)


@pytest.mark.task("absmax")
def test_twice(student, check, rng_seed):
    """What came back is quantized to the same codes; scaled by 2**k it is, too; order is kept."""
    x = randn(rng_seed, 9, 21).sort().values
    for name in ("absmax_quantize", "zero_point_quantize"):
        quantize = getattr(student.absmax, name)
        for bits in (8, 4):
            first = quantize(x, bits, 0)
            codes = check.tensor(first[0], shape=x.shape)
            check.true(bool((codes.int().diff() >= 0).all()), "order is lost", given={"x": x})
            again = quantize(student.absmax.dequantize(*first), bits, 0)
            check.equal(again[0], codes, given={"x": "what came back from the codes"})
            larger = quantize(x * 64, bits, 0)
            check.equal(larger[0], codes, given={"x": x * 64})
            check.equal(larger[1], first[1] * 64, given={"x": x * 64})


@pytest.mark.task("absmax")
def test_dequantize(student, check, rng_seed):
    """(codes - zero) * scale in fp32, whatever dtypes they have, without wrapping below zero."""
    codes, zeros = randint(rng_seed, 256, 4, 6), randint(rng_seed + 1, 256, 4, 1)
    codes[:, 0], zeros[0] = 0, 200
    scale = randn(rng_seed + 2, 4, 1).abs()
    for zero, scales in ((zeros, scale), (zeros.float(), scale.half()), (7, scale.bfloat16())):
        exact = zero if isinstance(zero, int) else zero.double()
        expected = (codes.double() - exact) * scales.double()
        given = {"codes": codes, "scale": scales, "zero": zero}
        got = student.absmax.dequantize(codes, scales, zero)
        check.close(got, expected, rtol=1e-6, atol=0, dtype=torch.float32, given=given)
    signed = torch.tensor([-127, 0, 127], dtype=torch.int8)
    got = student.absmax.dequantize(signed, torch.tensor(0.5))
    check.equal(got, torch.tensor([-63.5, 0.0, 63.5]), given={"codes": signed, "scale": 0.5})


@pytest.mark.task("absmax", weight=2)
@pytest.mark.parametrize("bits", [4, 8, 3])
@pytest.mark.parametrize("size", [(1, 1, 5), (3, 4, 8), (5, 6, 6), (2, 128, 256)], ids=str)
def test_groups_symmetric(student, check, rng_seed, bits, size):
    """Symmetric groups: scale 2 max|w| / top, zero point 2**(bits - 1), the nearest codes."""
    rows, group, columns = size
    w = per_slice(rng_seed, rows, columns)
    given = {"w": w, "bits": bits, "group_size": group}
    codes, scales, zeros = student.absmax.group_quantize(w, bits, group)
    codes = check.tensor(codes, shape=w.shape, dtype=torch.uint8, given=given)
    top = 2**bits - 1
    wide = w.double().reshape(rows, -1, group).abs().amax(-1)
    check.close(scales, 2 * wide / top, rtol=1e-6, atol=0, dtype=torch.float32, given=given)
    expected = torch.full((rows, columns // group), 2 ** (bits - 1), dtype=torch.uint8)
    check.equal(zeros, expected, given=given)
    check.true(int(codes.max()) <= top, f"a code is above {top}", given=given)
    spread = [t.double().repeat_interleave(group, 1) for t in (scales, zeros)]
    within(check, w, codes, *spread, given)
    back = student.absmax.group_dequantize(codes, scales, zeros)
    expected = (codes.double() - spread[1]) * spread[0]
    check.close(back, expected, rtol=1e-6, atol=0, dtype=torch.float32, given=given)


@pytest.mark.task("absmax", weight=2)
@pytest.mark.parametrize("bits", [4, 8, 2])
@pytest.mark.parametrize("size", [(1, 1, 5), (3, 4, 8), (5, 6, 6), (2, 64, 256)], ids=str)
def test_groups_asymmetric(student, check, rng_seed, bits, size):
    """Asymmetric groups are what the zero-point quantizer makes of each group alone."""
    rows, group, columns = size
    w = per_slice(rng_seed, rows, columns) + 0.3
    given = {"w": w, "bits": bits, "group_size": group, "symmetric": False}
    codes, scales, zeros = student.absmax.group_quantize(w, bits, group, False)
    codes = check.tensor(codes, shape=w.shape, dtype=torch.uint8, given=given)
    groups = w.reshape(-1, group)
    exact, zero = reference.ranges(groups, bits, 0)
    exact, zero = exact.reshape(rows, -1), zero.reshape(rows, -1)
    check.close(scales, exact, rtol=1e-6, atol=0, dtype=torch.float32, given=given)
    zeros = check.tensor(zeros, shape=exact.shape, dtype=torch.uint8, given=given)
    near = float((zeros.double() - zero).abs().max()) <= HALF
    check.true(near, "not -lo / scale, rounded", given=given, expected=zero, got=zeros)
    spread = [t.double().repeat_interleave(group, 1) for t in (scales, zeros)]
    within(check, w, codes, *spread, given, 2**bits - 1)
    back = student.absmax.group_dequantize(codes, scales, zeros)
    expected = (codes.double() - spread[1]) * spread[0]
    check.close(back, expected, rtol=1e-6, atol=0, dtype=torch.float32, given=given)


@pytest.mark.task("absmax")
def test_groups_ties(student, check):
    """In groups, too, a half goes to the even integer before the zero point is added."""
    w = (torch.arange(16) - 7.5)[None]  # symmetric, 4 bits: scale 1
    codes, scales, zeros = student.absmax.group_quantize(w, 4, 16)
    check.equal(scales, torch.ones(1, 1), given={"w": w, "group_size": 16})
    expected = torch.tensor([[min(round(v) + 8, 15) for v in w[0].tolist()]], dtype=torch.uint8)
    check.equal(codes, expected, given={"w": w, "group_size": 16})


@pytest.mark.task("absmax")
def test_groups_of_zeros(student, check, rng_seed):
    """A group of zeros has scale 1, zero point 2**(bits - 1) or 0, and comes back as zeros."""
    w = randn(rng_seed, 3, 12)
    w[1, 4:8] = 0
    for symmetric, zero in ((True, 8), (False, 0)):
        given = {"w": w, "group_size": 4, "symmetric": symmetric}
        codes, scales, zeros = student.absmax.group_quantize(w, 4, 4, symmetric)
        check.equal(check.tensor(scales, shape=(3, 3))[1, 1], torch.tensor(1.0), given=given)
        expected = torch.tensor(zero, dtype=torch.uint8)
        check.equal(check.tensor(zeros, shape=(3, 3))[1, 1], expected, given=given)
        back = check.tensor(student.absmax.group_dequantize(codes, scales, zeros), shape=w.shape)
        check.equal(back[1, 4:8], torch.zeros(4), given=given)


@pytest.mark.task("absmax")
def test_refusals(student, check, rng_seed):
    """NaN, Inf, bits outside 2..8 and groups that do not divide the columns are refused."""
    w = randn(rng_seed, 4, 12)
    absmax = student.absmax
    codes, scales, zeros = absmax.group_quantize(w, 4, 6)
    check.tensor(codes, shape=w.shape)
    for size in (5, 0, 24):
        given = {"w": w, "group_size": size}
        with check.raises(ValueError, given=given):
            absmax.group_quantize(w, 4, size)
    try:
        absmax.group_quantize(w, 4, 7)
    except StudentError as error:
        named = "7" in error.message and "12" in error.message
        check.true(named, "the message does not name 12 and 7", got=error.message)
    with check.raises(ValueError, given={"codes": "[4, 12]", "scales": "[4, 5]"}):
        absmax.group_dequantize(codes, torch.ones(4, 5), torch.zeros(4, 5, dtype=torch.uint8))
    for bad in (math.nan, math.inf, -math.inf):
        x = w.clone()
        x[2, 3] = bad
        for quantize in (absmax.absmax_quantize, absmax.zero_point_quantize, absmax.group_quantize):
            with check.raises(ValueError, given={"a number of x": bad}):
                quantize(x, 4)
    for bits in (1, 9):
        with check.raises(ValueError, given={"bits": bits}):
            absmax.absmax_quantize(w, bits)


# -- packing ---------------------------------------------------------------------------------------

ORDERS = pytest.mark.parametrize("order", ["low_first", "high_first"])


@pytest.mark.task("packing", weight=2)
@ORDERS
@pytest.mark.parametrize("shape", [(2,), (3, 4), (2, 3, 10), (5, 1, 2), (3, 0)], ids=str)
def test_nibbles(student, check, rng_seed, order, shape):
    """Two neighbours along the last axis share a byte, in the order asked for."""
    codes = randint(rng_seed, 16, *shape)
    flat = reference.nibbles(codes.reshape(-1).tolist(), order)
    packed = torch.tensor(flat, dtype=torch.uint8).reshape(*shape[:-1], shape[-1] // 2)
    given = {"codes": codes, "order": order}
    check.equal(student.packing.pack_nibbles(codes, order), packed, given=given)
    got = student.packing.unpack_nibbles(packed, order)
    check.equal(got, codes, given={"packed": packed, "order": order})


@pytest.mark.task("packing")
@ORDERS
def test_all_bytes(student, check, order):
    """All 256 bytes are unpacked and packed again to themselves."""
    packed = torch.arange(256).to(torch.uint8)
    codes = student.packing.unpack_nibbles(packed, order)
    flat = [
        code for byte in range(256) for code in divmod(byte, 16)[:: -1 if "low" in order else 1]
    ]
    check.equal(codes, torch.tensor(flat, dtype=torch.uint8), given={"packed": packed})
    check.equal(student.packing.pack_nibbles(codes, order), packed, given={"order": order})


@pytest.mark.task("packing")
def test_nibbles_refuse(student, check):
    """Odd lengths, codes above 15 and unknown orders are refused; low first is the default."""
    codes = torch.tensor([[1, 2]], dtype=torch.uint8)
    packing = student.packing
    check.equal(packing.pack_nibbles(codes), torch.tensor([[0x21]], dtype=torch.uint8))
    check.equal(packing.unpack_nibbles(codes), torch.tensor([[1, 0, 2, 0]], dtype=torch.uint8))
    with check.raises(ValueError, given={"codes": codes.T}):
        packing.pack_nibbles(codes.T.contiguous())
    for bad in (16, 255):
        codes = torch.tensor([3, bad], dtype=torch.uint8)
        with check.raises(ValueError, given={"codes": codes}):
            packing.pack_nibbles(codes)
    for function in (packing.pack_nibbles, packing.unpack_nibbles):
        with check.raises(ValueError, given={"order": "middle_first"}):
            function(torch.tensor([1, 2], dtype=torch.uint8), "middle_first")


def layer(seed: int, outs: int, ins: int, groups: int):
    """Codes, scales, zero points and the groups of the input channels, in no order."""
    g_idx = torch.randint(groups, (ins,), generator=reference.generator(seed)).to(torch.int32)
    zeros = randint(seed + 2, 16, outs, groups)
    zeros[0, 0], zeros[-1, -1] = 0, 15
    return randint(seed + 1, 16, outs, ins), randn(seed + 3, outs, groups).abs(), zeros, g_idx


SIZES = pytest.mark.parametrize("size", [(8, 8, 1), (8, 24, 3), (16, 8, 2), (24, 40, 5)], ids=str)


@pytest.mark.task("packing", weight=2)
@SIZES
def test_pack_gptq(student, check, rng_seed, size):
    """Words hold eight codes along the input, eight zero points minus one along the output."""
    codes, scales, zeros, g_idx = layer(rng_seed, *size)
    tensors = student.packing.pack_gptq(codes, scales, zeros, g_idx)
    given = {"codes": codes, "zeros": zeros}
    check.equal(list(tensors), ["qweight", "qzeros", "scales", "g_idx"], given=given)
    qweight, qzeros = reference.gptq_words(codes, zeros)
    check.equal(tensors["qweight"], qweight, given=given)
    check.equal(tensors["qzeros"], qzeros, given=given)
    check.equal(tensors["scales"], scales.T.half().contiguous(), given={"scales": scales})
    check.equal(tensors["g_idx"], g_idx, given={"g_idx": g_idx})


@pytest.mark.task("packing", weight=2)
@SIZES
def test_unpack_gptq(student, check, rng_seed, size):
    """A layer packed by another hand is read exactly, codes in the sign bits included."""
    codes, scales, zeros, g_idx = layer(rng_seed, *size)
    qweight, qzeros = reference.gptq_words(codes, zeros)
    stored = scales.T.half().contiguous()
    tensors = {"qweight": qweight, "qzeros": qzeros, "scales": stored, "g_idx": g_idx}
    got = student.packing.unpack_gptq(tensors)
    check.true(type(got) is tuple and len(got) == 4, "not a tuple of four tensors")
    given = {"qweight": qweight, "qzeros": qzeros}
    for tensor, expected in zip(got, (codes, stored.float().T, zeros, g_idx), strict=True):
        check.equal(tensor, expected.contiguous(), given=given)


@pytest.mark.task("packing")
def test_all_zero_points(student, check):
    """Zero points 0 to 15 survive; a 0 does not borrow from its neighbours."""
    zeros = torch.arange(16).to(torch.uint8)[:, None]
    codes, scales = torch.full((16, 8), 15, dtype=torch.uint8), torch.ones(16, 1)
    g_idx = torch.zeros(8, dtype=torch.int32)
    for order in (zeros, zeros.flip(0).contiguous()):
        tensors = student.packing.pack_gptq(codes, scales, order, g_idx)
        given = {"zeros": order}
        check.equal(tensors["qzeros"], reference.gptq_words(codes, order)[1], given=given)
        got = student.packing.unpack_gptq(tensors)
        check.equal(got[2], order, given=given)
        check.equal(got[0], codes, given=given)


@pytest.mark.task("packing")
def test_gptq_refuses(student, check, rng_seed):
    """Sizes that are not whole words, and codes or zero points above 15, are refused."""
    codes, scales, zeros, g_idx = layer(rng_seed, 8, 16, 2)
    pack = student.packing.pack_gptq
    check.tensor(pack(codes, scales, zeros, g_idx)["qweight"], shape=(2, 8))
    for outs, ins in ((8, 12), (4, 16)):
        with check.raises(ValueError, given={"out": outs, "in": ins}):
            pack(codes[:outs, :ins].clone(), scales[:outs], zeros[:outs], g_idx[:ins])
    for which in (codes, zeros):
        which[3, 1] = 16
        with check.raises(ValueError, given={"a code or zero point": 16}):
            pack(codes, scales, zeros, g_idx)
        which[3, 1] = 15


# -- nf4 -------------------------------------------------------------------------------------------

# Shapes of one to three axes: odd and even, shorter than a block, whole blocks, and neither.
SHAPES = [
    (1,), (2,), (63,), (64,), (65,), (129,), (1000,), (1, 64), (3, 43), (7, 64), (5, 130), (33, 31),
    (16, 256), (1, 1), (2, 3, 50), (4, 1, 17), (3, 5, 7), (2, 64, 64), (100, 3), (11, 13),
]  # fmt: skip
# The reach of fp32 rounding around a midpoint: there, either neighbour will do.
MARGIN = 1e-6
NF4 = reference.nf4_book()


def check_nearest(check, codes, scaled, book, given, margin: float = MARGIN) -> None:
    """Codes are the places of the nearest numbers; either of two where rounding decides."""
    place, clear = reference.nearest(scaled, book, margin)
    wrong = int((codes.long() != place)[clear].sum())
    check.true(wrong == 0, f"{wrong} of {len(place)} codes are not the nearest", given=given)
    far = int(((codes.long() - place).abs() > 1).sum())
    check.true(far == 0, f"{far} codes are not even next to the nearest", given=given)


@pytest.mark.task("nf4", weight=3)
def test_code_book(student, check):
    """The sixteen numbers are those of the normal distribution's quantiles, within 1e-6."""
    book = student.nf4.code_book()
    check.close(book, torch.tensor(NF4), rtol=0, atol=1e-6, dtype=torch.float32)
    check.true(float(book[7]) == 0.0, "number 7 is not exactly 0", got=book)
    check.true(float(book[0]) == -1.0 and float(book[15]) == 1.0, "the ends are not -1 and 1")


@pytest.mark.task("nf4")
def test_code_book_bits(student, check):
    """Computed as specified, the code book has every bit of bitsandbytes' table."""
    from bitsandbytes.functional import get_4bit_type

    check.equal(student.nf4.code_book(), get_4bit_type("nf4", device="cpu"))


def bitsandbytes_nf4(x: torch.Tensor, blocksize: int, double: bool = False):
    """(packed [bytes], state, what it stands for) of bitsandbytes."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    # Flat, as its CPU kernel errs where a matrix's rows are not whole blocks (0.50.2, AVX-512).
    # And for odd sizes it would compile a kernel, where here it only has to compute.
    with torch.compiler.set_stance("force_eager"):
        packed, state = quantize_4bit(
            x.reshape(-1), blocksize=blocksize, compress_statistics=double, quant_type="nf4"
        )
        back = dequantize_4bit(packed, state)
    return packed.reshape(-1), state, back.reshape(x.shape)


@pytest.mark.task("nf4", weight=2)
@DTYPES
@pytest.mark.parametrize("blocksize", [64, 32, 256])
def test_bitsandbytes(student, check, note, rng_seed, dtype, blocksize):
    """20 shapes come out as in bitsandbytes: codes, scales, and the numbers they stand for."""
    same = total = 0
    for number, shape in enumerate(SHAPES):
        x = (randn(rng_seed + number, *shape) * 10 ** (number % 5 - 2.0)).to(dtype)
        given = {"x": x, "blocksize": blocksize}
        packed, absmax = student.nf4.quantize_nf4(x, blocksize)
        theirs, state, back = bitsandbytes_nf4(x, blocksize)
        packed = check.tensor(packed, shape=theirs.shape, dtype=torch.uint8, given=given)
        check.equal(absmax, state.absmax, given=given)
        codes = reference.halves(packed, x.numel())
        scaled, _ = reference.scaled(x, blocksize)
        _, clear = reference.nearest(scaled, NF4, MARGIN)
        wrong = int((codes != reference.halves(theirs, x.numel()))[clear].sum())
        message = f"{wrong} of {len(codes)} codes are others than in bitsandbytes"
        check.true(wrong == 0, message, given=given, expected=theirs, got=packed)
        got = student.nf4.dequantize_nf4(theirs, state.absmax, shape, blocksize, dtype)
        # A product in fp32 with a code book within 1e-6, and then one rounding to the dtype.
        values = torch.tensor(NF4, dtype=torch.float64)[reference.halves(theirs, x.numel())]
        spread = state.absmax.double().repeat_interleave(blocksize)[: x.numel()]
        exact = (values * spread).reshape(shape)
        rounding = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
        slack = 1e-6 * float(spread.max())
        check.close(got, exact, rtol=1.001 * rounding, atol=slack, dtype=dtype, given=given)
        check.close(got, back, rtol=2 * rounding, atol=slack, given=given)
        same += int((packed == theirs).sum())
        total += len(theirs)
    if blocksize == 64:
        name = str(dtype).removeprefix("torch.")
        note(f"from {name}: {same} of {total} bytes are those of bitsandbytes")


@pytest.mark.task("nf4")
def test_odd_blocks(student, check, rng_seed):
    """Any block size of at least 1 works, and a block's codes depend on that block alone."""
    x = randn(rng_seed, 7, 15)
    for blocksize in (1, 3, 10, 104, 105, 1000):
        given = {"x": x, "blocksize": blocksize}
        packed, absmax = student.nf4.quantize_nf4(x, blocksize)
        packed = check.tensor(packed, shape=(53,), dtype=torch.uint8, given=given)
        scaled, expected = reference.scaled(x, blocksize)
        check.equal(absmax, expected.float(), given=given)
        check_nearest(check, reference.halves(packed, 105), scaled, NF4, given)
        check.true(int(packed[-1]) % 16 == 7, "the spare half byte is not the code of 0, 7")
        back = student.nf4.dequantize_nf4(packed, absmax, (7, 15), blocksize)
        values = torch.tensor(NF4)[reference.halves(packed, 105)]
        spread = absmax.repeat_interleave(blocksize)[:105]
        check.close(back, (values * spread).reshape(7, 15), rtol=1e-6, atol=1e-5, given=given)


@pytest.mark.task("nf4")
def test_middle(student, check):
    """A number exactly in the middle of two gets the lower code."""
    book = check.tensor(student.nf4.code_book(), shape=(16,), dtype=torch.float32)
    # On both sides of 0, where half a number of the code book is exact in fp32.
    for size in (1.0, 4.0, 2.0**-9):
        x = torch.tensor([1.0, float(book[6]) / 2, float(book[8]) / 2, -1.0]) * size
        packed, _ = student.nf4.quantize_nf4(x)
        expected = torch.tensor([0xF6, 0x70], dtype=torch.uint8)
        check.equal(packed, expected, given={"x": x})


@pytest.mark.task("nf4", weight=2)
@pytest.mark.parametrize("shape", [(3, 64), (64,), (130,), (5,)], ids=str)
def test_nf4_zeros(student, check, shape):
    """A block of zeros has scale 0 and code 7, beside any other block, and comes back as zeros."""
    zeros = torch.zeros(shape)
    mixed = zeros.clone().reshape(-1)
    mixed[:3] = torch.tensor([0.5, -2.0, 0.0])
    for x in (zeros, mixed.reshape(shape)):
        packed, absmax = student.nf4.quantize_nf4(x)
        expected = reference.scaled(x, 64)[1].float()
        check.equal(absmax, expected, given={"x": x})
        codes = reference.halves(check.tensor(packed, dtype=torch.uint8), x.numel())
        quiet = x.reshape(-1) == 0
        check.true(bool((codes[quiet] == 7).all()), "a zero has another code than 7")
        back = check.tensor(student.nf4.dequantize_nf4(packed, absmax, shape), shape=shape)
        check.true(not back.reshape(-1)[quiet].any(), "a zero did not come back as 0")


@pytest.mark.task("nf4")
def test_nf4_refuses(student, check, rng_seed):
    """NaN, Inf, nothing at all, blocks of less than 1 and wrong lengths are refused."""
    nf4, x = student.nf4, randn(rng_seed, 70)
    packed, absmax = nf4.quantize_nf4(x)
    check.tensor(packed, shape=(35,))
    for bad in (math.nan, math.inf, -math.inf):
        y = x.clone()
        y[66] = bad
        with check.raises(ValueError, given={"a number of x": bad}):
            nf4.quantize_nf4(y)
        with check.raises(ValueError, given={"a scale": bad}):
            nf4.double_quantize(y)
    for function in (nf4.quantize_nf4, nf4.double_quantize):
        with check.raises(ValueError, given={"x": "an empty tensor"}):
            function(torch.empty(0))
        with check.raises(ValueError, given={"blocksize": 0}):
            function(x, 0)
    for shape in ((72,), (68,), (129,)):
        with check.raises(ValueError, given={"bytes": 35, "scales": 2, "shape": shape}):
            nf4.dequantize_nf4(packed, absmax, shape)
    with check.raises(ValueError, given={"scales": 3, "shape": (70,)}):
        nf4.dequantize_nf4(packed, torch.ones(3), (70,))


@pytest.mark.task("nf4", weight=3)
@pytest.mark.parametrize("count, blocksize", [(256, 256), (700, 256), (5, 256), (77, 16), (9, 1)])
def test_double(student, check, rng_seed, count, blocksize):
    """Scales less their mean: the nearest of the 256 numbers, a scale for each block."""
    absmax = randn(rng_seed, count).abs() + 0.5
    given = {"absmax": absmax, "blocksize": blocksize}
    codes, absmax2, offset = student.nf4.double_quantize(absmax, blocksize)
    codes = check.tensor(codes, shape=(count,), dtype=torch.uint8, given=given)
    check.close(offset, absmax.double().mean(), rtol=1e-6, atol=0, dtype=torch.float32, given=given)
    scaled, expected = reference.scaled(absmax - offset, blocksize)
    check.equal(absmax2, expected.float(), given=given)
    check_nearest(check, codes, scaled, reference.dynamic_book(), given, 2e-7)


@pytest.mark.task("nf4", weight=2)
def test_double_back(student, check, rng_seed):
    """Codes come back as number times block's scale plus offset, in fp32."""
    codes = randint(rng_seed, 256, 300)
    for blocksize in (256, 64, 300):
        absmax2 = randn(rng_seed + 1, -(-300 // blocksize)).abs()
        got = student.nf4.double_dequantize(codes, absmax2, torch.tensor(1.5), blocksize)
        values = torch.tensor(reference.dynamic_book())[codes.long()]
        expected = values * absmax2.repeat_interleave(blocksize)[:300] + 1.5
        given = {"codes": codes, "absmax2": absmax2, "offset": 1.5, "blocksize": blocksize}
        check.close(got, expected, rtol=1e-6, atol=1e-6, dtype=torch.float32, given=given)
    same = torch.full((300,), 0.75)
    codes, absmax2, offset = student.nf4.double_quantize(same)
    expected = torch.full((300,), 127, dtype=torch.uint8)
    check.equal(codes, expected, given={"absmax": same})
    got = student.nf4.double_dequantize(codes, absmax2, offset)
    check.close(got, same, rtol=1e-6, atol=0, given={"absmax": same})


@pytest.mark.task("nf4")
def test_double_bitsandbytes(student, check, note, rng_seed):
    """A matrix with compressed scales stands for the same numbers as bitsandbytes'."""
    x = randn(rng_seed, 300, 256)
    packed, absmax = student.nf4.quantize_nf4(x)
    codes, absmax2, offset = student.nf4.double_quantize(absmax)
    scales = student.nf4.double_dequantize(codes, absmax2, offset)
    back = student.nf4.dequantize_nf4(packed, scales, (300, 256))
    _, state, theirs = bitsandbytes_nf4(x, 64, double=True)
    given = {"x": "normal numbers [300, 256]"}
    check.close(absmax2, state.state2.absmax, rtol=1e-5, atol=0, given=given)
    check.close(offset, state.offset, rtol=1e-6, atol=0, given=given)
    codes = check.tensor(codes, shape=state.absmax.shape, dtype=torch.uint8, given=given)
    same = int((codes == state.absmax).sum())
    # bitsandbytes on a CPU looks its numbers up in a coarser table: next to a midpoint it may err.
    scaled, _ = reference.scaled(absmax - offset, 256)
    _, clear = reference.nearest(scaled, reference.dynamic_book(), 5e-5)
    wrong = int((codes != state.absmax)[clear & (scaled.abs() > 0.01)].sum())
    check.true(wrong == 0, f"{wrong} codes of scales are others than in bitsandbytes", given=given)
    # Neighbours in the coarsest decade are 0.9 / 64 of the block's scale apart.
    check.close(back, theirs, rtol=0, atol=0.015 * float(absmax2.max()), given=given)
    errors = [float((y.double() - x.double()).square().mean().sqrt()) for y in (back, theirs)]
    note(f"{same} of {len(codes)} codes of scales are bitsandbytes' own; the root mean square "
         f"error of normal numbers is {errors[0]:.5f}, bitsandbytes' {errors[1]:.5f}")  # fmt: skip


@pytest.mark.task("nf4")
def test_bits(student, check):
    """4.5 bits with blocks of 64, 4.127 with double quantization, 8 + 32 / 256 bits for a scale."""
    for blocksize, double, bits in (
        (64, None, 4.5), (64, 256, 4.126953125), (32, None, 5.0), (128, 64, 4.06640625),
        (256, 1, 4.15625),
    ):  # fmt: skip
        got = student.nf4.bits_per_weight(blocksize, double)
        check.number(
            got, bits, rel=1e-9, given={"blocksize": blocksize, "double_blocksize": double}
        )
    check.number(student.nf4.bits_per_weight(), 4.5, rel=1e-9)


# -- fp8 -------------------------------------------------------------------------------------------

FORMATS = pytest.mark.parametrize("fmt", list(reference.FP8))
SATURATE = pytest.mark.parametrize("saturate", [True, False], ids=["saturate", "overflow"])


def check_codes(check, got, x, fmt: str, saturate: bool) -> None:
    """``got`` are the codes of ``x``, none of it NaN; the first wrong number is shown."""
    got = check.tensor(got, shape=x.shape, dtype=torch.uint8, given={"fmt": fmt})
    expected = reference.fp8_codes(x, fmt, saturate)
    nan = torch.isnan(reference.fp8_table(fmt))
    differs = (got != expected) & ~(nan[got.long()] & nan[expected.long()])
    if bool(differs.any()):
        first = int(differs.reshape(-1).nonzero()[0])
        value, code, right = (t.reshape(-1)[first].item() for t in (x, got, expected))
        check.true(
            False,
            f"{int(differs.sum())} of {x.numel()} codes are wrong",
            given={"x": f"{value:.9g}", "fmt": fmt, "saturate": saturate},
            expected=f"0x{right:02X}",
            got=f"0x{code:02X}",
        )


def all_16_bit(dtype: torch.dtype) -> torch.Tensor:
    """Every number of a 16-bit dtype, without NaN."""
    numbers = torch.arange(65536).to(torch.uint16).view(dtype)
    return numbers[~numbers.isnan()]


def random_fp32(seed: int, n: int) -> torch.Tensor:
    """Random bits as fp32, NaN left out, and numbers of the sizes that the formats have."""
    random = reference.generator(seed)
    bits = torch.randint(-(2**31), 2**31, (n,), generator=random).to(torch.int32)
    x = bits.view(torch.float32)
    sizes = torch.exp2(torch.rand(n, generator=random) * 40 - 22)
    return torch.cat([x[~x.isnan()], torch.randn(n, generator=random) * sizes])


@pytest.mark.task("fp8", weight=2)
@FORMATS
def test_decode(student, check, fmt):
    """All 256 codes have their number: subnormals, both zeros, infinity and NaN included."""
    codes = torch.arange(256).to(torch.uint8).reshape(16, 16)
    got = student.fp8.from_fp8(codes, fmt)
    got = check.tensor(got, shape=(16, 16), dtype=torch.float32, finite=False).reshape(-1)
    expected = reference.fp8_table(fmt).float()
    for code in range(256):
        value, right = float(got[code]), float(expected[code])
        same = math.isnan(value) if math.isnan(right) else value == right
        signs = math.isnan(right) or math.copysign(1, value) == math.copysign(1, right)
        given = {"code": f"0x{code:02X}", "fmt": fmt}
        check.true(same and signs, "wrong number", given=given, expected=right, got=value)


@pytest.mark.task("fp8", weight=2)
@FORMATS
@SATURATE
def test_all_bf16(student, check, fmt, saturate):
    """Every bf16 number but NaN, 65,282 of them, gets the right code."""
    x = all_16_bit(torch.bfloat16)
    check_codes(check, student.fp8.to_fp8(x, fmt, saturate), x, fmt, saturate)


@pytest.mark.task("fp8")
@FORMATS
def test_all_fp16(student, check, fmt):
    """Every fp16 number but NaN gets the right code, subnormals included."""
    x = all_16_bit(torch.float16)
    check_codes(check, student.fp8.to_fp8(x, fmt), x, fmt, True)


@pytest.mark.task("fp8", weight=2)
@FORMATS
@SATURATE
def test_hard_numbers(student, check, fmt, saturate):
    """All numbers of the format, all midpoints, and their fp32 neighbours get the right code."""
    x = reference.fp8_inputs(fmt)
    check_codes(check, student.fp8.to_fp8(x, fmt, saturate), x, fmt, saturate)


@pytest.mark.task("fp8", weight=2)
@FORMATS
@SATURATE
def test_random_fp32(student, check, rng_seed, fmt, saturate):
    """Random fp32 bits and sizes get the right code; the shape stays."""
    x = random_fp32(rng_seed, 20_000)
    x = x[: len(x) // 6 * 6].reshape(2, 3, -1)
    check_codes(check, student.fp8.to_fp8(x, fmt, saturate), x, fmt, saturate)


@pytest.mark.task("fp8")
@pytest.mark.parametrize("fmt", list(reference.TORCH_FP8))
def test_torch(student, check, note, rng_seed, fmt):
    """Within the range, codes and numbers are torch's, bit for bit."""
    dtype = reference.TORCH_FP8[fmt]
    largest = float(reference.fp8_table(fmt)[reference.FP8[fmt][2]])
    x = torch.cat([all_16_bit(torch.bfloat16).float(), random_fp32(rng_seed, 20_000)])
    x = x[x.abs() <= largest]
    theirs = x.to(dtype)
    got = check.tensor(student.fp8.to_fp8(x, fmt), shape=x.shape, dtype=torch.uint8)
    check.equal(got, theirs.view(torch.uint8), given={"fmt": fmt})
    check.equal(student.fp8.from_fp8(got, fmt), theirs.float(), given={"fmt": fmt})
    note(f"{fmt}: {len(x)} numbers have the codes of torch {torch.__version__.split('+')[0]}")


@pytest.mark.task("fp8")
@FORMATS
def test_nan(student, check, fmt):
    """NaN becomes NaN in both modes, whatever its sign and payload."""
    bits = torch.tensor([0x7FC00000, 0x7F800001, 0x7FFFFFFF, -1, -(2**31) + 0x7F800001])
    x = bits.to(torch.int32).view(torch.float32)
    nan = torch.isnan(reference.fp8_table(fmt))
    for numbers in (x, torch.full((2,), math.nan).bfloat16(), torch.full((2,), math.nan).half()):
        for saturate in (True, False):
            got = student.fp8.to_fp8(numbers, fmt, saturate)
            got = check.tensor(got, shape=numbers.shape, dtype=torch.uint8)
            given = {"x": numbers, "fmt": fmt, "saturate": saturate}
            check.true(bool(nan[got.long()].all()), "NaN became a number", given=given, got=got)


@pytest.mark.task("fp8", weight=2)
@FORMATS
@pytest.mark.parametrize("shape, axis", AXES, ids=str)
def test_scaled(student, check, rng_seed, fmt, shape, axis):
    """Each slice is scaled to the format's largest number; codes are those of x / scale."""
    x = per_slice(rng_seed, *shape)
    given = {"w": x, "fmt": fmt, "axis": axis}
    codes, scale = student.fp8.quantize_fp8(x, fmt, axis)
    codes = check.tensor(codes, shape=shape, dtype=torch.uint8, given=given)
    table = reference.fp8_table(fmt)
    largest = float(table[reference.FP8[fmt][2]])
    expected = reference.symmetric_scales(x, 2, axis) / largest
    check.close(scale, expected, rtol=1e-6, atol=0, dtype=torch.float32, given=given)
    # Division and rounding: half a step of the result, and a little for the division.
    numbers = table[codes.long()]
    check.true(bool(numbers.isfinite().all()), "a code is no finite number", given=given)
    bias, mantissa_bits = reference.FP8[fmt][:2]
    ratio = x.double() / scale.double()
    exponent = torch.floor(torch.log2(ratio.abs().clamp(min=2.0 ** (1 - bias))))
    half = 2.0 ** (exponent - mantissa_bits - 1) * (1 + 1e-4)
    check.true(bool(((numbers - ratio).abs() <= half).all()), "not the nearest code", given=given)
    back = student.fp8.dequantize_fp8(codes, scale, fmt)
    exact = numbers * scale.double()
    check.close(back, exact, rtol=1e-6, atol=0, dtype=torch.float32, given=given)


@pytest.mark.task("fp8")
@DTYPES
def test_scaled_dtypes(student, check, rng_seed, dtype):
    """Weights in 16 bits are scaled in fp32."""
    x = randn(rng_seed, 5, 40).to(dtype)
    codes, scale = student.fp8.quantize_fp8(x, "e4m3", 0)
    expected = reference.symmetric_scales(x, 2, 0) / 448
    check.close(scale, expected, rtol=1e-6, atol=0, dtype=torch.float32, given={"w": x})
    check_codes(check, codes, x.float() / scale, "e4m3", True)


@pytest.mark.task("fp8")
def test_scaled_zeros_and_refusals(student, check, rng_seed):
    """Zeros have scale 1 and come back; NaN, Inf, nothing and unknown formats are refused."""
    fp8, x = student.fp8, randn(rng_seed, 3, 8)
    x[1] = 0
    for w, axis in ((x, 0), (torch.zeros(2, 3), None)):
        codes, scale = fp8.quantize_fp8(w, "e5m2", axis)
        scales = check.tensor(scale, dtype=torch.float32, given={"w": w}).reshape(-1)
        check.equal(scales[len(scales) // 2], torch.tensor(1.0), given={"w": w})
        back = check.tensor(fp8.dequantize_fp8(codes, scale, "e5m2"), shape=w.shape)
        check.true(not back[1].any(), "zeros did not come back as zeros", given={"w": w})
    for bad in (math.nan, math.inf):
        w = x.clone()
        w[0, 0] = bad
        with check.raises(ValueError, given={"a number of w": bad}):
            fp8.quantize_fp8(w)
    with check.raises(ValueError, given={"w": "an empty tensor"}):
        fp8.quantize_fp8(torch.empty(0, 3))
    codes = torch.zeros(3, dtype=torch.uint8)
    for call in (
        lambda: fp8.to_fp8(x, "e6m1"),
        lambda: fp8.from_fp8(codes, "e6m1"),
        lambda: fp8.quantize_fp8(x, "e6m1"),
    ):
        with check.raises(ValueError, given={"fmt": "e6m1"}):
            call()
