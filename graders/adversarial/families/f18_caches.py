"""Warm caches: small working sets, memory kept resident, processors kept busy.

Sizes are many times the last cache, a flush lies between timed calls, and bandwidth beyond the
memory's is refused. What time says stays advisory.
"""

from ..attack import Attack

ATTACKS = [
    Attack(
        "prefetch",
        "a thread that reads the last input again and again, to keep it in the cache",
        """
            global last
            last = x
            def read():
                while True: last.sum()
            threading.Thread(target=read, daemon=True).start()
        """,
        task="speed",
        answer="torch.tensor([float(last[:1000].sum())])",
    ),
    Attack(
        "subset",
        "works on the part that fits the cache",
        task="speed",
        answer="(x[:4096].double().mean() * x.numel()).reshape(1)",
    ),
    Attack(
        "slow_oracle",
        "keeps every core busy while the oracle measures the machine",
        """
            for _ in range(4):
                if os.fork() == 0:
                    while True: pass
        """,
        task="speed",
        answer="torch.zeros(1)",
    ),
]
