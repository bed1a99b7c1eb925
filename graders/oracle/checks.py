"""``check``: comparisons that look at type, device, dtype, shape and finiteness first."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from graders.oracle.proxy import BadAnswer, RemoteObject, StudentError

# Tolerances by dtype against an fp64 reference: a few rounding errors of the format itself.
TOLERANCES = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (2e-5, 2e-5),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (1.6e-2, 1.6e-2),
}
_MAX_SHOWN = 400
_MAX_ITEMS = 40
# Names of exceptions that the test asks for right now: the debugger does not stop at these.
EXPECTED: list[str] = []


class CheckFailed(AssertionError):
    """An invariant does not hold; carries what the report shows."""

    def __init__(
        self, message: str, given: Any = None, expected: Any = None, got: Any = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.given = "" if given is None else show(given)
        self.expected = "" if expected is None else show(expected)
        self.got = "" if got is None else show(got)
        for label in ("given", "expected", "got"):  # a plain pytest prints notes
            if text := getattr(self, label):
                self.add_note(f"  {label:<9}{text}")

    __module__ = "builtins"  # tracebacks leave "builtins." out: a student need not know the grader


def show(value: Any) -> str:
    """A short text of a value; tensors by shape, dtype and first numbers."""
    if isinstance(value, Mapping):
        shown = [f"{show(key)} = {show(item)}" for key, item in islice(value.items(), _MAX_ITEMS)]
        return "; ".join(shown + ["…"] * (len(value) > _MAX_ITEMS))
    if isinstance(value, torch.Tensor):
        flat = value.detach().reshape(-1)
        numbers = ", ".join(
            f"{x:.6g}" if isinstance(x, float) else str(x) for x in flat[:8].tolist()
        )
        more = ", …" if flat.numel() > 8 else ""
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype}{list(value.shape)} [{numbers}{more}]"
    text = value if isinstance(value, str) and "\n" not in value else repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _kind(value: Any) -> str:
    if isinstance(value, RemoteObject):
        return f"a {value._reference.type_name} object"
    return f"a {type(value).__name__}"


class Check:
    """The fixture ``check``. Every method raises CheckFailed with what a student needs to see."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __repr__(self) -> str:
        return f"<comparisons on {self._device}>"

    # __tracebackhide__: under a plain pytest the traceback ends in the test, not in here.

    def tensor(
        self,
        got: Any,
        *,
        shape: Any = None,
        dtype: torch.dtype | None = None,
        finite: bool = True,
        given: Any = None,
    ) -> torch.Tensor:
        """``got`` is a plain tensor on the right device, of this shape and dtype, all finite."""
        __tracebackhide__ = True
        if type(got) is not torch.Tensor:
            raise CheckFailed(
                f"expected a torch.Tensor, got {_kind(got)}", given, "torch.Tensor", got
            )
        subclass = getattr(got, "wire_subclass", "")
        if subclass:
            raise CheckFailed(f"expected a plain torch.Tensor, got its subclass {subclass}", given)
        where = getattr(got, "wire_device", "cpu").split(":")[0]
        if where != self._device.split(":")[0]:
            raise CheckFailed(f"the tensor is on {where}, its inputs were on {self._device}", given)
        if shape is not None and tuple(got.shape) != tuple(shape):
            raise CheckFailed(
                "wrong shape", given, f"shape {list(shape)}", f"shape {list(got.shape)}"
            )
        if dtype is not None and got.dtype is not dtype:
            raise CheckFailed("wrong dtype", given, str(dtype), str(got.dtype))
        if (
            finite
            and (got.is_floating_point() or got.is_complex())
            and not bool(torch.isfinite(got).all())
        ):
            bad = int((~torch.isfinite(got)).sum())
            raise CheckFailed(
                f"{bad} of {got.numel()} numbers are NaN or Inf", given, "finite numbers", got
            )
        return got

    def close(
        self,
        got: Any,
        expected: torch.Tensor,
        *,
        rtol: float | None = None,
        atol: float | None = None,
        dtype: torch.dtype | None = None,
        given: Any = None,
    ) -> None:
        """``got`` has the shape and numbers of ``expected``, within the tolerance of its own dtype.

        ``dtype`` is the dtype asked for; left out, that of ``expected`` unless that is an fp64
        reference.
        """
        __tracebackhide__ = True
        if not bool(torch.isfinite(expected).all()):
            raise ValueError("the test's own expected value is not finite")
        wanted = (
            dtype
            if dtype is not None
            else (None if expected.dtype is torch.float64 else expected.dtype)
        )
        got = self.tensor(got, shape=expected.shape, dtype=wanted, given=given)
        if not got.is_floating_point():
            raise CheckFailed(
                "expected floating-point numbers", given, "a float dtype", str(got.dtype)
            )
        default_rtol, default_atol = TOLERANCES.get(got.dtype, (0.1, 0.1))
        rtol = default_rtol if rtol is None else rtol
        atol = default_atol if atol is None else atol
        reference = expected.detach().cpu().to(torch.float64)
        error = (got.to(torch.float64) - reference).abs()
        excess = error - (atol + rtol * reference.abs())
        if excess.numel() and float(excess.max()) > 0:
            index = [int(i) for i in torch.unravel_index(excess.argmax(), excess.shape)]
            place = tuple(index)
            wrong = int((excess > 0).sum())
            raise CheckFailed(
                f"{wrong} of {error.numel()} numbers differ; the worst, at index {index}, "
                f"is {float(got[place]):.6g} instead of {float(reference[place]):.6g} "
                f"(allowed error {float(atol + rtol * reference[place].abs()):.2g})",
                given, expected, got,
            )  # fmt: skip

    def equal(self, got: Any, expected: Any, *, given: Any = None) -> None:
        """``got`` is exactly ``expected``, of the same type all the way down."""
        __tracebackhide__ = True
        if isinstance(expected, torch.Tensor):
            got = self.tensor(
                got, shape=expected.shape, dtype=expected.dtype, finite=False, given=given
            )
            if not torch.equal(got, expected.cpu()):
                raise CheckFailed("the tensors differ", given, expected, got)
            return
        if not _same(got, expected):
            raise CheckFailed("not equal", given, expected, got)

    def true(
        self,
        condition: Any,
        message: str,
        *,
        given: Any = None,
        expected: Any = None,
        got: Any = None,
    ) -> None:
        """``condition`` holds; it must be a real bool, computed in the oracle."""
        __tracebackhide__ = True
        if type(condition) is torch.Tensor and condition.numel() == 1:
            condition = bool(condition)
        if condition is not True:
            raise CheckFailed(message, given, expected, got)

    def number(
        self, got: Any, expected: float, *, rel: float = 1e-6, abs: float = 0.0, given: Any = None
    ) -> None:
        """``got`` is a finite int or float close to ``expected``."""
        __tracebackhide__ = True
        if type(got) is torch.Tensor and got.numel() == 1:
            got = got.item()
        if type(got) not in (int, float):
            raise CheckFailed(f"expected a number, got {_kind(got)}", given, expected, got)
        if type(got) is float and not math.isfinite(got):
            raise CheckFailed("the number is NaN or infinite", given, expected, got)
        try:
            near = math.isclose(got, expected, rel_tol=rel, abs_tol=abs)
        except OverflowError:  # an int beyond any float
            near = got == expected
        if not near:
            raise CheckFailed("wrong number", given, expected, got)

    @contextlib.contextmanager
    def raises(self, *kinds: type[BaseException], given: Any = None) -> Iterator[None]:
        """The submission raises one of ``kinds`` in the block; NotImplementedError never counts."""
        names = " or ".join(kind.__name__ for kind in kinds)
        EXPECTED.extend(kind.__name__ for kind in kinds)
        try:
            yield
        except StudentError as error:
            wanted = any(kind.__name__ in error.types for kind in kinds)
            if wanted and "NotImplementedError" not in error.types and error.phase == "call":
                return
            raise
        finally:
            EXPECTED.clear()
        raise CheckFailed(f"bad input was accepted: expected {names}", given, names, "no exception")


def _same(got: Any, expected: Any) -> bool:
    if type(got) is not type(expected):
        return False
    if isinstance(expected, list | tuple):
        return len(got) == len(expected) and all(
            _same(a, b) for a, b in zip(got, expected, strict=True)
        )
    if isinstance(expected, dict):
        return (
            list(got) == list(expected)
            and all(_same(got[key], expected[key]) for key in expected)
            or (
                set(got) == set(expected)
                and all(_same(got[key], expected[key]) for key in expected)
            )
        )
    if isinstance(expected, torch.Tensor):
        return (
            got.dtype is expected.dtype
            and got.shape == expected.shape
            and torch.equal(got, expected)
        )
    return bool(got == expected)


__all__ = ["BadAnswer", "Check", "CheckFailed", "show"]
