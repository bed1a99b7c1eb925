"""Skips, expected failures and outcomes raised in place of an answer.

pytest runs in the oracle alone; there an exception of the submission is data, whatever its name,
and a skipped or missing test is no pass.
"""

from ..attack import Attack

ATTACKS = [
    Attack(
        "skip",
        "raises pytest's skip",
        """
            import pytest
            pytest.skip('not today')
        """,
    ),
    Attack(
        "skip_module",
        "skips its whole module while it is imported",
        before="""
            ran()
            import pytest
            pytest.skip('all', allow_module_level=True)
        """,
    ),
    Attack(
        "xfail",
        "raises pytest's expected failure",
        """
            import pytest
            pytest.xfail('known')
        """,
    ),
    Attack(
        "exit",
        "raises pytest's exit with status 0",
        """
            import pytest
            pytest.exit('done', 0)
        """,
    ),
    Attack(
        "own_skip",
        "an exception with the names of pytest's own",
        """
            Skipped = type('Skipped', (BaseException,), {'__module__': '_pytest.outcomes'})
            raise Skipped('no GPU')
        """,
    ),
    Attack(
        "forged_skip",
        "says over the wire that Skipped, Exit and XFailed were raised",
        "send(error(['Skipped', 'Exit', 'XFailed', 'StopIteration', 'GeneratorExit'], 'x'))",
    ),
    Attack(
        "not_attempted",
        "says the words by which a missing GPU is known",
        "raise RuntimeError('not attempted (no GPU)')",
    ),
    Attack(
        "stop_iteration",
        "raises StopIteration where a value is asked for",
        "raise StopIteration(x * 2)",
    ),
    Attack(
        "forged_stop", "answers a call with the end of a stream", "send(frame(encode(['Stop'])))"
    ),
]
