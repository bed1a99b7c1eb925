"""Hidden tests of lab 03's GPU tier: the products first, then the speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graders.lab03 import int4
from graders.oracle.gpu import Measurement, once

# rows, columns, group size, rows of the input
SHAPES = [
    (5, 64, 32, 1), (64, 256, 64, 1), (33, 1152, 128, 1), (130, 5120, 256, 1), (1, 32, 32, 1),
    (7, 96, 32, 2), (40, 384, 128, 5), (96, 640, 64, 16), (17, 1280, 256, 17), (70, 2176, 128, 70),
]  # fmt: skip


def small_products(student: Any, check: Any, dtype: torch.dtype, seed: int) -> None:
    """Odd sizes of everything, against fp64."""
    generator = torch.Generator().manual_seed(seed)
    for rows, columns, group, batch in SHAPES:
        layer = int4.random_layer(rows, columns, group, generator)
        x = torch.randn(batch, columns, generator=generator).to(dtype)
        got = student.int4_kernel.matmul_int4(x, *layer, group)
        int4.check_products(check, got, x, layer, group)


@pytest.fixture
def right(student, check, rng_seed, run_cache):
    """Require right products in every dtype; found out once a run."""

    def every() -> bool:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            small_products(student, check, dtype, rng_seed)
        return True

    return lambda: once(run_cache, "int4_kernel products", every)


@pytest.fixture
def speed(student, device, run_cache, right) -> Callable[[int], Measurement]:
    """The measurement at a batch size; made once a run, and only of products that are right."""

    def at(batch: int) -> Measurement:
        right()
        return once(
            run_cache,
            f"int4_kernel batch {batch}",
            lambda: int4.measure(student, int4.WORKLOAD, batch, device),
        )

    return at


def at_least(found: float, least: float, what: str, check: Any, name: str) -> None:
    """Require a share or a ratio."""
    check.true(
        found >= least,
        f"{name}: slower than asked for",
        expected=f"{what} of {least:.2f} or more",
        got=f"{found:.2f}",
    )


@pytest.mark.task("int4_kernel", weight=3)
def test_int4_products(right):
    """Products are right for odd sizes, every group size and batch, in bf16, fp16 and fp32."""
    right()


@pytest.mark.task("int4_kernel", weight=1)
def test_int4_weights(student, check, rng_seed):
    """Every code stands for (code - zero) * scale, in the order of the columns."""
    generator = torch.Generator().manual_seed(rng_seed)
    layer = int4.random_layer(16, 64, 32, generator, torch.float32)
    packed = torch.arange(16, dtype=torch.uint8)[:, None] * 16 + torch.arange(32).to(torch.uint8)
    layer = (packed, *layer[1:])  # every code, in either half of a byte
    weights = int4.exact_weights(layer, 32)
    given = {"packed": packed, "scales": layer[1], "zeros": layer[2]}
    got = student.int4_kernel.dequantize_int4(*layer, 32)
    check.close(got, weights, dtype=torch.float32, given=given)
    for x in (torch.eye(64), torch.eye(64)[11:12], -torch.eye(64)[62:63]):
        got = student.int4_kernel.matmul_int4(x, *layer, 32)
        int4.check_products(check, got, x, layer, 32)


@pytest.mark.task("int4_kernel", weight=1)
def test_int4_refuses(student, check, rng_seed):
    """Group sizes that are not allowed and shapes that do not fit are refused."""
    layer = int4.random_layer(8, 192, 32, torch.Generator().manual_seed(rng_seed))
    packed, scales, zeros = layer
    x = torch.ones(2, 192)
    bad = {
        "a group of 48": (x, packed, scales[:, :4], zeros[:, :4], 48),
        "a group of 16": (x, packed, scales.repeat(1, 2), zeros.repeat(1, 2), 16),
        "groups that do not divide": (x, packed, scales[:, :1], zeros[:, :1], 128),
        "too few columns of x": (x[:, :128], *layer, 32),
        "a vector": (x[0], *layer, 32),
        "too few groups": (x, packed, scales[:, 1:], zeros[:, 1:], 32),
        "zeros of another shape": (x, packed, scales, zeros[:, 1:], 32),
    }
    for case, arguments in bad.items():
        with check.raises(ValueError, given=case):
            student.int4_kernel.matmul_int4(*arguments)


@pytest.mark.task("int4_kernel", weight=1)
def test_int4_stack(student, check, rng_seed, right):
    """A stack gives every row's dot product with the probe, for each input, also when it grows."""
    right()
    generator = torch.Generator().manual_seed(rng_seed)
    stack, layers = student.int4_kernel.Stack(64), []
    for batch in (1, 1, 3, 16, 1):
        for _ in range(2):
            layers.append(int4.random_layer(48, 320, 64, generator))
            stack.add(*layers[-1])
        x = torch.randn(batch, 320, generator=generator).bfloat16()
        probe = torch.randn(48, generator=generator)
        shape = (len(layers), batch)
        got = check.tensor(stack.run(x, probe), shape=shape, dtype=torch.float32)
        for found in int4.expected(layers, [(x, probe)], [got], 64):
            int4.check_probed(*found)


@pytest.mark.task("int4_kernel", weight=7)
@pytest.mark.parametrize("least", [0.2, 0.35, 0.5])
def test_int4_bandwidth(speed, check, note, least):
    """One row: a share of what the memory can do, every result right."""
    found = speed(1)
    note(int4.line(found), name=f"int4_kernel {found.name}", **found.figures())
    at_least(found.fraction, least, "a share", check, found.name)


@pytest.mark.task("int4_kernel", weight=5)
@pytest.mark.parametrize("least", [1.0, 1.5, 2.0])
def test_int4_library(speed, check, least):
    """One row: so many times as fast as cuBLAS with the same weights in bf16."""
    found = speed(1)
    at_least(found.ratio, least, "a ratio", check, found.name)


@pytest.mark.task("int4_kernel", weight=2)
def test_int4_batch(speed, check, note):
    """Sixteen rows: no slower than cuBLAS with the same weights in bf16."""
    found = speed(16)
    note(int4.line(found), name=f"int4_kernel {found.name}", **found.figures())
    at_least(found.ratio, 1.0, "a ratio", check, found.name)
