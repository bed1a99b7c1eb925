"""Impossible speed.

A time below what the machine's own copy bandwidth allows, or one that is not positive, makes the
measurement invalid; an answer sent before its question cannot hold the question's numbers.
"""

from ..attack import Attack

ATTACKS = [
    Attack(
        "answer_first",
        "sends the next answers before they are asked for",
        "for _ in range(4): send(answer(['T', 'float64', [1], 'cpu', '', bytes(8)]))",
        task="speed",
        answer="x.double().sum().reshape(1)",
    ),
    Attack(
        "one_behind",
        "answers each call with the last call's result",
        """
            global last
            last, mine = x.double().sum().reshape(1), last
        """,
        before="last = torch.zeros(1, dtype=torch.float64)",
        task="speed",
        answer="last * 0 + 1",
    ),
    Attack(
        "nothing_done",
        "returns at once",
        task="speed",
        answer="torch.tensor([524288.0], dtype=torch.float64)",
    ),
]
