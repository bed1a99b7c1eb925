"""Results that say of themselves that they are right.

Only plain data crosses to the oracle; a tensor is rebuilt there from its bytes, and a subclass, an
object or a number of another type is no tensor.
"""

from ..attack import Attack

YES = """
class Yes:
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = lambda self, other: True
    __bool__ = lambda self: True
    __hash__ = lambda self: 0
    __sub__ = __rsub__ = __abs__ = lambda self, *a: self
    __float__ = lambda self: 0.0
    shape, dtype = (5,), torch.float32
"""
SUBCLASS = """
class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.tolist or "eq" in str(function):
            return True
        return super().__torch_function__(function, types, args, kwargs or {})
"""

ATTACKS = [
    Attack(
        "always_equal",
        "an object whose every comparison is true",
        before=YES,
        answer="Yes()",
        bites=("trusting", "points"),
    ),
    Attack(
        "array_interface",
        "an object that numpy takes for any array",
        before="""
        import numpy
        class Anything:
            __array__ = lambda self, *a, **k: numpy.full(5, numpy.nan)
            __array_ufunc__ = lambda self, *a, **k: True
            __array_function__ = lambda self, *a, **k: True
        """,
        answer="Anything()",
    ),
    Attack(
        "subclass",
        "a tensor subclass that answers for torch's functions",
        before=SUBCLASS,
        answer="torch.zeros_like(x).as_subclass(Liar)",
    ),
    Attack(
        "right_subclass",
        "a subclass that holds the right numbers and could do more",
        before=SUBCLASS,
        answer="(x * 2).as_subclass(Liar)",
    ),
    Attack(
        "stream_of_yes",
        "an endless stream of objects that are equal to everything",
        before=YES,
        task="stream",
        answer="iter(lambda: Yes(), None)",
    ),
    Attack(
        "patched_equality",
        "torch and builtins patched so that all is equal",
        before="""
        import builtins, math
        yes = lambda *a, **k: True
        torch.equal = torch.allclose = torch.isclose = torch.isfinite = yes
        torch.Tensor.__eq__ = torch.Tensor.all = torch.Tensor.equal = yes
        builtins.all = builtins.any = math.isclose = math.isfinite = yes
        """,
    ),
]
