"""Hidden tests of lab 01's GPU tier: the tokens first, then the speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graders.lab01 import fast
from graders.lab01.checkpoints import greedy, write_llama
from graders.oracle.checks import Check
from graders.oracle.gpu import Measurement, once
from graders.oracle.proxy import Student


def small_tokens(student: Student, check: Check, folder: Any, device: str, seed: int) -> None:
    """Compare with transformers on a tiny model in fp32, where greedy tokens are exact."""
    oracle = write_llama(folder, seed % 1000, head_dim=16)
    model = student.model.load_model(str(folder), torch.float32, device)
    decoder = student.fast_decode.FastDecoder(model, 2, 32)
    for prompts in (torch.tensor([[5, 3, 8], [7, 1, 2]]), torch.tensor([[9, 60], [0, 4]])):
        expected = torch.tensor([greedy(oracle, row, 8) for row in prompts.tolist()])
        given = {"prompts": prompts}
        check.equal(decoder.prefill(prompts), expected[:, 0], given=given)
        check.equal(decoder.decode(4), expected[:, 1:5], given={**given, "steps": 4})
        check.equal(decoder.decode(3), expected[:, 5:], given={**given, "steps": "4, then 3"})


@pytest.fixture
def right(student, check, given_dir, device, rng_seed, run_cache):
    """Require the right tokens; found out once a run."""

    def small() -> bool:
        small_tokens(student, check, given_dir, device, rng_seed)
        return True

    return lambda: once(run_cache, "fast_decode tokens", small)


@pytest.fixture
def speed(student, device, inferlab_run, run_cache, right) -> Callable[[int], Measurement]:
    """The measurement at a batch size; made once a run, and only of a decoder that is right."""
    work, folder = fast.WORKLOAD, inferlab_run.stage.given / "fast_decode"

    def prepare() -> tuple[Any, fast.Rounding]:
        fast.write_checkpoint(work, folder, inferlab_run.seed, device)
        reference = fast.load_reference(work, folder, device)
        return reference, fast.calibrate(work, reference, device, inferlab_run.seed)

    def at(batch: int) -> Measurement:
        right()
        reference, rounding = once(run_cache, "fast_decode reference", prepare)
        return once(
            run_cache,
            f"fast_decode batch {batch}",
            lambda: fast.measure(student, work, batch, folder, reference, rounding, device),
        )

    return at


def share_of_bandwidth(found: Measurement, least: float, check: Check, note: Any) -> None:
    """Note the measurement, then require a fraction of the copy bandwidth."""
    note(fast.line(found), name=f"fast_decode {found.name}", **found.figures())
    check.true(
        found.fraction >= least,
        f"{found.name}: slower than asked for",
        expected=f"{least:.2f} of copy bandwidth",
        got=f"{found.fraction:.2f}",
    )


@pytest.mark.task("fast_decode", weight=5)
def test_fast_decode_tokens(right):
    """The fast path makes the tokens of the plain one, at every step and for every new prompt."""
    right()


@pytest.mark.task("fast_decode", weight=6)
@pytest.mark.parametrize("least", [0.2, 0.4, 0.6])
def test_fast_decode_one(speed, check, note, least):
    """One sequence decodes at a share of what the memory can do; the tokens are right."""
    share_of_bandwidth(speed(1), least, check, note)


@pytest.mark.task("fast_decode", weight=6)
@pytest.mark.parametrize("least", [0.1, 0.2, 0.35])
def test_fast_decode_batch(speed, check, note, least):
    """A batch of 32 decodes at a share of what the memory can do; the tokens are right."""
    share_of_bandwidth(speed(32), least, check, note)


@pytest.mark.task("fast_decode", weight=3)
def test_fast_decode_library(speed, check):
    """One sequence decodes at least as fast as transformers' generate."""
    found = speed(1)
    check.true(
        found.ratio >= 1.0,
        f"{found.name}: slower than transformers' generate",
        expected="a ratio of 1.0 or more",
        got=f"{found.ratio:.2f}",
    )
