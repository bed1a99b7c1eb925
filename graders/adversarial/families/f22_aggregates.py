"""Underflow and overflow of aggregates: zero, negative, not finite.

Points are a weighted share of passing tests, computed in the oracle from a committed list; a record
with a number out of its bounds is refused.
"""

from ..attack import Attack

ATTACKS = [
    Attack("score_word", "returns a score in place of an answer", answer="float('inf')"),
    Attack(
        "huge_int",
        "returns integers beyond every float",
        task="stream",
        answer="iter([10**4000, -10**4000, 2**63])",
    ),
    Attack(
        "long_int",
        "returns an integer with more digits than may be read",
        task="stream",
        answer="iter([1 << 40_000])",
    ),
    Attack("negative_zero", "minus zero and the smallest numbers", answer="x * -0.0"),
    Attack(
        "no_tests",
        "leaves so early that no test has a result",
        before="""
            ran()
            os._exit(0)
        """,
    ),
    Attack(
        "many_results",
        "answers more items than were asked for",
        task="stream",
        answer="iter([0, 1, 2, 3])",
    ),
]
