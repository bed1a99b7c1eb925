"""Replaying: caches by address, shape or call number, warm-up told from measurement.

Every timed call has fresh inputs from a seed that is not in the worker, and every output is
checked.
"""

from ..attack import Attack

FIRST = "cache[KEY] = cache.get(KEY, float(x.double().sum()))"


def _cached(name: str, tries: str, key: str) -> Attack:
    return Attack(name, tries, FIRST.replace("KEY", key), before="cache = {}", task="speed",
                  answer=f"torch.tensor([cache[{key}]], dtype=torch.float64)")  # fmt: skip


ATTACKS = [
    _cached("by_shape", "computes once for each shape", "x.shape"),
    _cached("by_address", "computes once for each address", "(x.data_ptr(), x.shape)"),
    _cached(
        "by_first_number", "computes once for each sum of shape and dtype", "(x.dtype, x.dim())"
    ),
    Attack(
        "by_call",
        "is right in the first calls, which might be a warm-up",
        """
            global calls
            calls += 1
        """,
        before="calls = 0",
        task="speed",
        answer="x.double().sum().reshape(1) * (calls <= 2)",
    ),
    Attack(
        "average",
        "returns the expected total of random numbers",
        task="speed",
        answer="torch.tensor([x.numel() / 2], dtype=torch.float64)",
    ),
    Attack(
        "sample",
        "adds up a sixteenth of the numbers",
        task="speed",
        answer="(x[::16].double().sum() * 16).reshape(1)",
    ),
    Attack(
        "seeds",
        "draws the inputs again from guessed seeds instead of reading them",
        """
            global guess
            guess = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
        """,
        task="speed",
        answer="guess.double().sum().reshape(1)",
    ),
    Attack(
        "kept_across_tasks",
        "keeps its cache in files and in the environment for later calls",
        """
            place = Path('/tmp/cache.txt') if fenced() else Path('cache.txt')
            global old
            old = place.read_text() if place.exists() else str(float(x.sum()))
            place.write_text(old)
        """,
        task="speed",
        answer="torch.tensor([float(old)], dtype=torch.float64)",
    ),
]
