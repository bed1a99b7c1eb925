"""Answering before the work is done: lazy objects, threads, streams.

A timed call ends when the output's bytes are in the oracle; an object that stays in the worker is
no answer, and a memory file must be sealed, so that nothing can be filled in later.
"""

from ..attack import Attack

ATTACKS = [
    Attack(
        "lazy_object",
        "returns an object that computes when it is looked at",
        before="""
            class Lazy:
                def __getattr__(self, name): return getattr(x_.double().sum().reshape(1), name)
        """,
        code="""
            global x_
            x_ = x
        """,
        task="speed",
        answer="Lazy()",
    ),
    Attack(
        "lazy_tensor",
        "returns a tensor on the meta device",
        task="speed",
        answer="torch.empty(1, device='meta')",
    ),
    Attack(
        "fake_tensor",
        "returns a fake tensor, as the compiler has them",
        before="from torch._subclasses.fake_tensor import FakeTensorMode",
        code="""
            global fake
            with FakeTensorMode(): fake = torch.zeros(1)
        """,
        task="speed",
        answer="fake",
    ),
    Attack(
        "filled_later",
        "returns memory at once that a thread fills later",
        """
            global out
            out = torch.zeros(1)
            def fill():
                time.sleep(0.02); out.copy_(x.sum())
            threading.Thread(target=fill, daemon=True).start()
        """,
        task="speed",
        answer="out",
    ),
    Attack(
        "unsealed",
        "sends a memory file that it can still write to",
        """
            import mmap
            fd = os.memfd_create('t', 3)
            os.ftruncate(fd, 4)
            global held
            held = mmap.mmap(fd, 4)
            data = encode(['Ok', ['T', 'float32', [1], 'cpu', '', 0], []])
            send(frame(data, 1), [fd])
            held[:4] = struct.pack('f', float(x.sum()))
        """,
        task="speed",
        answer="torch.zeros(1)",
    ),
    Attack(
        "coroutine",
        "returns a future that is never done",
        "import asyncio",
        task="speed",
        answer="asyncio.sleep(60)",
    ),
    Attack(
        "generator",
        "returns a generator in place of a result",
        task="speed",
        answer="(x.sum() for _ in range(1))",
    ),
    Attack(
        "sparse_layout",
        "returns the numbers in a layout that is not there yet",
        task="speed",
        answer="torch.zeros(1).to_sparse()",
    ),
]
