"""What a function may return that is not the answer: each is refused, with words that help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from graders.oracle.checks import Check, CheckFailed
from graders.oracle.grade import Grader, Options
from graders.oracle.proxy import BadAnswer, Connection, Student, StudentError
from graders.oracle.stage import Stage, make_stage
from graders.oracle.workers import Worker, WorkerLost
from graders.worker.limits import Limits

from .toy import Course

MODULE = '''
import collections, enum, os, socket, stat, struct, sys, time
import numpy as np
import torch

class D(dict): pass
class S(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
    def __iter__(self): return iter("other")
    def __str__(self): return "other"
class I(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
    def __index__(self): return 7
    def __int__(self): return 7
class F(float):
    def __float__(self): return 7.0
class L(list):
    def __iter__(self): return iter([1, 2])
class E(enum.IntEnum):
    ONE = 1
class Liar:
    def __len__(self): return "three"
    def __getattr__(self, name): raise SystemExit(name)
class Endless:
    def __iter__(self): return self
    def __next__(self): return self

def nested(depth):
    value = None
    for _ in range(depth): value = [value]
    return value
def itself():
    value = []
    value.append(value)
    return value

VALUES = {
    "true": lambda: True, "one": lambda: 1, "minus_zero": lambda: -0.0, "nan": lambda: float("nan"),
    "inf": lambda: float("inf"), "text": lambda: "two", "none": lambda: None,
    "huge": lambda: 10**400, "longer": lambda: 10**5000, "complex": lambda: 1j,
    "dict_subclass": lambda: D(a=1), "counter": lambda: collections.Counter("a"),
    "str_subclass": lambda: S("two"), "int_subclass": lambda: I(1), "float_subclass": lambda: F(1),
    "list_subclass": lambda: L([3]), "int_enum": lambda: E.ONE, "set": lambda: {1},
    "surrogate": lambda: "\\ud800", "surrogate_key": lambda: {"\\ud800": 1},
    "nested": lambda: nested(10000), "itself": itself, "unhashable": lambda: {(1, (2,)): [3]},
    "many": lambda: [0] * 3_000_000, "wide": lambda: b"x" * 2**25,
    "hundred_tensors": lambda: [torch.zeros(20000) for _ in range(100)],
    "liar": Liar, "endless": Endless, "type": lambda: torch.Tensor, "module": lambda: os,
    "mixed": lambda: iter([1, Liar(), "\\ud800", {1}, float("nan")]),
    "numpy": lambda: np.float32(1.0), "objects": lambda: np.array([None]),
    "right": lambda: torch.tensor([1.0, 2.0]),
    "grad": lambda: torch.tensor([1.0, 2.0], requires_grad=True),
    "parameter": lambda: torch.nn.Parameter(torch.tensor([1.0, 2.0])),
    "strided": lambda: torch.tensor([[1.0, 9.0], [2.0, 9.0]])[:, 0],
    "flipped": lambda: torch.tensor([2.0, 1.0]).flip(0),
    "expanded": lambda: torch.tensor([1.0]).expand(2),
    "scalar": lambda: torch.tensor(1.0), "empty": lambda: torch.empty(0),
    "complex_tensor": lambda: torch.tensor([1 + 0j, 2 + 0j]),
    "conjugate": lambda: torch.tensor([1 + 0j, 2 + 0j]).conj(),
    "integers": lambda: torch.tensor([1, 2]), "bools": lambda: torch.tensor([True, True]),
    "half": lambda: torch.tensor([1.0, 2.0]).half(),
    "sparse": lambda: torch.tensor([1.0, 2.0]).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.tensor([1.0, 2.0]), 0.1, 0, torch.qint8),
    "meta": lambda: torch.empty(2, device="meta"), "array": lambda: np.array([1.0, 2.0], "f4"),
    "nested_tensor": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
}
def give(name): return VALUES[name]()

def _channel():
    for fd in range(3, 200):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode): return fd
        except OSError: pass
def send(data, length=None, fds=0):
    """Speak to the oracle past the grader's own code."""
    fd = _channel()
    os.set_blocking(fd, True)
    sys.stdout.flush()
    os.write(fd, struct.pack("!IB", len(data) if length is None else length, fds))
    view = memoryview(data)
    while view: view = view[os.write(fd, view):]
    time.sleep(60)
OK = bytes([0x93, 0xA2]) + b"Ok"
def raw(name):
    if name == "nested": send(OK + b"\\x91" * 10000 + b"\\xc0\\x90")
    if name == "no message": send(b"\\xc1" * 64)
    if name == "another message": send(b"\\x91\\xa4Evil")
    if name == "too long": send(b"", length=2**31)
    if name == "descriptors that are not there": send(OK + b"\\xc0\\x90", fds=3)
    if name == "bare list": send(OK + b"\\x92\\x01\\x02\\x90")
    if name == "payload that is not there":
        send(OK + b"\\x96\\xa1T\\xa7float32\\x91\\x02\\xa3cpu\\xa0\\x05\\x90")
    if name == "bytes too few":
        send(OK + b"\\x96\\xa1T\\xa7float32\\x91\\x02\\xa3cpu\\xa0\\xc4\\x01x\\x90")
    if name == "negative shape":
        send(OK + b"\\x96\\xa1T\\xa7float32\\x91\\xff\\xa3cpu\\xa0\\xc4\\x00\\x90")
    if name == "millions of lists":
        many = 5 * 10**6
        send(OK + b"\\x92\\xa1l\\xdd" + struct.pack("!I", many) + b"\\xc0" * many + b"\\x90")
    if name == "dataclass of the grader":
        send(OK + b"\\x94\\xa1D\\xaegraders.record\\xa6Record\\x80\\x90")
'''


class Talk:
    """A worker that is replaced when it is lost, as the plugin does for tests."""

    def __init__(self, grader: Grader, stage: Stage) -> None:
        self.grader, self.stage = grader, stage
        self.worker: Worker | None = None

    def student(self, seconds: float = 20.0) -> Student:
        if self.worker is None or getattr(self.worker, "closed", False):
            self.worker = self.grader._worker(self.stage, self.stage.root, "cpu")
        worker = self.worker
        worker.budget_s = seconds
        return Student(Connection(lambda: worker))

    def give(self, name: str) -> Any:
        return self.student().values.give(name)


@pytest.fixture(scope="module", params=["process", "sandbox"])
def talk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Talk]:
    root = Course(tmp_path_factory.mktemp("values")).root
    folder = root / "submission"
    folder.mkdir()
    (folder / "values.py").write_text(MODULE)
    options = Options(isolation=request.param, device="cpu", limits=Limits(memory_bytes=3 * 2**29))
    with Grader("lab90", options, root) as grader:
        stage = make_stage(root, "lab90_toy", folder)
        made = Talk(grader, stage)
        yield made
        if made.worker is not None:
            made.worker.close()
        stage.close()


CHECK = Check("cpu")
EXPECTED = torch.tensor([1.0, 2.0])


def closed(got: Any) -> None:
    CHECK.close(got, EXPECTED)


def equals(expected: Any) -> Callable[[Any], None]:
    return lambda got: CHECK.equal(got, expected)


def one(got: Any) -> None:
    CHECK.number(got, 1.0)


@pytest.mark.parametrize(
    ("name", "judge"),
    [
        ("right", closed),
        ("grad", closed),
        ("parameter", closed),
        ("strided", closed),
        ("flipped", closed),
        ("one", one),
        ("one", equals(1)),
        ("numpy", one),
        ("scalar", one),
        ("minus_zero", equals(0.0)),
        ("int_enum", equals(1)),
        ("huge", equals(10**400)),
        ("unhashable", equals({(1, (2,)): [3]})),
    ],
)
def test_a_right_answer_in_another_dress_is_right(
    talk: Talk, name: str, judge: Callable[[Any], None]
) -> None:
    judge(talk.give(name))


@pytest.mark.parametrize(
    ("name", "judge", "says"),
    [
        ("true", equals(1), "not equal"),
        ("one", equals(True), "not equal"),
        ("true", one, "expected a number, got a bool"),
        ("nan", one, "NaN or infinite"),
        ("inf", one, "NaN or infinite"),
        ("nan", equals(float("nan")), "not equal"),
        ("text", one, "expected a number, got a str"),
        ("none", one, "expected a number, got a NoneType"),
        ("huge", one, "wrong number"),
        ("longer", one, "digits"),
        ("complex", one, "got a complex object"),
        ("dict_subclass", equals({"a": 1}), "not equal"),
        ("counter", equals({"a": 1}), "not equal"),
        ("str_subclass", equals("other"), "not equal"),
        ("int_subclass", equals(7), "not equal"),
        ("list_subclass", equals([1, 2]), "not equal"),
        ("set", equals([1]), "not equal"),
        ("surrogate", equals("x"), "cannot be sent"),
        ("surrogate_key", equals({}), "cannot be sent"),
        ("nested", equals([]), "nested too deeply"),
        ("itself", equals([]), "refers to itself"),
        ("many", equals([]), "too many items"),
        ("wide", equals(b""), "too large"),
        ("hundred_tensors", equals([]), "100 large tensors"),
        ("liar", closed, "got a Liar object"),
        ("endless", closed, "got a Endless object"),
        ("type", closed, "got a _TensorMeta object"),
        ("module", closed, "got a module object"),
        ("objects", closed, "got a ndarray object"),
        ("array", closed, "expected a torch.Tensor, got a ndarray"),
        ("expanded", closed, "1 of 2 numbers differ"),
        ("scalar", closed, "wrong shape"),
        ("empty", closed, "wrong shape"),
        ("complex_tensor", closed, "wrong dtype"),
        ("conjugate", closed, "wrong dtype"),
        ("integers", closed, "wrong dtype"),
        ("bools", closed, "wrong dtype"),
        ("half", closed, "wrong dtype"),
        ("sparse", closed, "sparse_coo on cpu cannot cross"),
        ("quantized", closed, "cannot cross"),
        ("meta", closed, "on meta cannot cross"),
        ("nested_tensor", closed, ""),
    ],
)
def test_a_wrong_answer_is_refused_in_words(
    talk: Talk, name: str, judge: Callable[[Any], None], says: str
) -> None:
    with pytest.raises((CheckFailed, StudentError, BadAnswer)) as caught:
        judge(talk.give(name))
    assert says in str(caught.value)
    assert talk.give("one") == 1, "the same process goes on"


def test_a_complex_answer_to_an_fp64_reference_is_refused(talk: Talk) -> None:
    with pytest.raises(CheckFailed, match="floating-point"):
        CHECK.close(talk.give("complex_tensor"), EXPECTED.double())


def test_an_iterator_that_yields_hostile_things(talk: Talk) -> None:
    stream = talk.give("mixed")
    assert next(stream) == 1
    assert repr(next(stream)) == "<Liar in the submission>"
    with pytest.raises(StudentError, match="cannot be sent"):
        next(stream)
    assert repr(next(stream)) == "<set in the submission>"
    with pytest.raises(CheckFailed):
        one(next(stream))
    assert list(stream) == []


def test_an_object_cannot_lie_about_its_length_or_attributes(talk: Talk) -> None:
    liar = talk.give("liar")
    with pytest.raises(TypeError):
        len(liar)
    with pytest.raises(StudentError, match="SystemExit"):
        liar.anything()
    assert talk.give("one") == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nested", "cannot be read as plain data"),
        ("no message", "cannot be read as plain data"),
        ("another message", "cannot be read as plain data"),
        ("bare list", "malformed value"),
        ("payload that is not there", "payload missing"),
        ("bytes too few", "do not match"),
        ("negative shape", "malformed shape"),
        ("millions of lists", "too many items"),
        ("dataclass of the grader", "unknown dataclass"),
        ("too long", "no answer"),
        ("descriptors that are not there", "no answer"),
    ],
)
def test_a_forged_message_is_an_error_and_no_more(talk: Talk, name: str, says: str) -> None:
    student = talk.student()
    assert talk.worker is not None
    try:
        with pytest.raises((BadAnswer, WorkerLost), match=says):
            student.values.raw(name)
    finally:
        talk.worker.close()  # it sleeps
    assert talk.give("one") == 1


def test_silence_is_an_answer_too(talk: Talk) -> None:
    with pytest.raises(WorkerLost, match="within the time limit"):
        talk.student(seconds=0.5).values.send(b"half", 100)
