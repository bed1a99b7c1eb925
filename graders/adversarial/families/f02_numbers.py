"""NaN, infinities and numbers that are none.

The oracle looks at type, shape, dtype and finiteness before it compares; a score is clamped and a
record with a number that is not finite is refused.
"""

from ..attack import Attack

ATTACKS = [
    Attack("nan", "every number is NaN", answer="x * float('nan')"),
    Attack("inf", "every number is infinite", answer="x + float('inf')"),
    Attack(
        "nan_payload",
        "NaNs with every bit set, and signalling ones",
        answer="torch.full(x.shape, -1, dtype=torch.int32).view(torch.float32)",
    ),
    Attack(
        "half_nan",
        "right where it can be seen, NaN behind",
        answer="torch.cat([2 * x.flatten()[:-1], torch.tensor([float('nan')])]).reshape(x.shape)",
    ),
    Attack(
        "other_dtype",
        "the right numbers as a dtype that compares loosely",
        answer="(x * 2).to(torch.float8_e5m2)",
    ),
    Attack(
        "complex",
        "the right numbers with an imaginary part that is not",
        answer="torch.complex(x * 2, x)",
    ),
    Attack(
        "broadcast",
        "one number where broadcasting would make it any shape",
        answer="torch.zeros(())",
    ),
    Attack("empty", "no numbers at all, of which all are right", answer="torch.empty(0)"),
    Attack(
        "bool_bytes",
        "booleans whose bytes are 255, and count as that when they are added up",
        """
            import numpy
            bytes_ = numpy.full(5, 255, numpy.uint8)
            send(answer(['A', '|b1', [5], bytes(bytes_)]))
        """,
    ),
    Attack(
        "nan_stream", "NaN in place of each item", task="stream", answer="iter([float('nan')] * 3)"
    ),
    Attack(
        "float_items",
        "floats and booleans that equal the ints asked for",
        task="stream",
        answer="iter([0.0, True, 2.0])",
    ),
]
