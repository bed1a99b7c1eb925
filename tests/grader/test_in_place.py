"""A function that changes its inputs is told so, whatever way the tensor came and was changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from graders.oracle.grade import ROOT
from graders.oracle.proxy import BadAnswer, Connection, Student
from graders.oracle.stage import make_stage
from graders.oracle.workers import ForkServer, InlineWorker, Worker, spawn_request
from graders.wire import codec
from graders.worker.limits import Limits

SOURCE = """
import torch

def first(x): x.reshape(-1)[0] += 1
def last(x): x.reshape(-1)[-1] += 1
def flip(x): x.logical_not_()
def transposed(x): x.t_()
def resized(x): x.resize_(1)
def replaced(x): x.data = x.data + 1
def cast(x): x.data = x.data.double()
def nan_bits(x): x.view(torch.int32)[3] ^= 1
def elsewhere(x):
    y = x.clone()
    x.zero_()
    x.set_(y.add_(1))

def second(x, y): y += 1

def nothing(x): return float(x.sum()), x * 2
def undone(x):
    x += 1
    x -= 1
def moved_but_equal(x): x.data = x.data.clone()
def itself(x): return x
"""
CHANGES = "first last replaced cast elsewhere transposed resized".split()
HARMLESS = "nothing undone moved_but_equal itself".split()
LARGE = codec.INLINE_BYTES // 4 + 1000


@pytest.fixture(scope="module", params=["none", "process", "sandbox"])
def student(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Student]:
    folder: Path = tmp_path_factory.mktemp("changes")
    (folder / "change.py").write_text(SOURCE)
    stage, server = make_stage(ROOT, "lab91_changes", folder), ForkServer(ROOT, ("torch",))
    worker: Worker
    if request.param == "none":
        worker = InlineWorker("lab91_changes", folder, "cpu")
    else:
        worker = server.spawn(
            spawn_request(stage, "lab91_changes", request.param, "cpu", "", Limits())
        )
    yield Student(Connection(lambda: worker))
    worker.close()
    server.close()
    stage.close()


def numbers(n: int) -> torch.Tensor:
    """Integers as floats, so that adding and taking away 1 is exact; square where asked for."""
    return torch.arange(n, dtype=torch.float32)


@pytest.mark.parametrize("size", [1, 9, LARGE, 2**20 + 3])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_seen(student: Student, name: str, size: int) -> None:
    side = int(size**0.5) + 1
    x = numbers(side * side).reshape(side, side)
    with pytest.raises(BadAnswer, match=r"in place: tensor argument 1 of shape"):
        getattr(student.change, name)(x)
    with student.may_mutate():
        getattr(student.change, name)(x)
    assert torch.equal(x, numbers(side * side).reshape(side, side)), "the oracle's own tensor"


@pytest.mark.parametrize("size", [0, 1, 9, LARGE, 2**20 + 3])
@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_equal_in_the_end_is_no_change(student: Student, name: str, size: int) -> None:
    getattr(student.change, name)(numbers(size))


@pytest.mark.parametrize("size", [5, 4 * LARGE])
def test_bool_and_bytes_and_nan(student: Student, size: int) -> None:
    truth = torch.arange(size) % 3 == 0
    student.change.itself(truth)
    student.change.itself(torch.full((size,), float("nan")))
    for change, x in (
        ("flip", truth),
        ("last", (torch.arange(size) % 100).to(torch.uint8)),  # not a multiple of eight bytes
        ("nan_bits", torch.full((size,), float("nan"))),
        ("first", torch.ones(size, dtype=torch.bfloat16)),
    ):
        with pytest.raises(BadAnswer, match="in place"):
            getattr(student.change, change)(x)


def test_the_second_of_two_is_named(student: Student) -> None:
    with pytest.raises(BadAnswer, match=r"place: tensor argument 2 of shape \(70000,\)$"):
        student.change.second(numbers(LARGE), y=numbers(70000))


def test_without_a_page_map_bytes_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc is missing, the answer is the same."""
    import builtins
    import os

    real = builtins.open

    def no_proc(path, *arguments, **options):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return real(path, *arguments, **options)

    packer = codec.Packer()
    tree = packer.pack(numbers(LARGE))
    assert len(packer.fds) == 1
    for hidden in (False, True):
        if hidden:
            monkeypatch.setattr(builtins, "open", no_proc)
        unpacker = codec.Unpacker([os.dup(packer.fds[0])], lambda ref: None)
        x = unpacker.unpack(tree)
        (arrived,) = unpacker.tensors
        assert codec._ever_written(x.data_ptr(), x.nbytes) is hidden
        assert not arrived.changed()
        assert float(x.sum()) > 0 and not arrived.changed(), "reading is no change"
        x[LARGE - 1] += 1
        assert codec._ever_written(x.data_ptr(), x.nbytes) and arrived.changed()
        x[LARGE - 1] -= 1
        assert not arrived.changed()
    packer.close()
