"""Reading hidden tests, solutions, the gradebook, other submissions and other processes.

The sandbox sees the submission, the course library and the interpreter; a pid namespace of its own
holds no process but its own.
"""

from ..attack import SANDBOX, Attack

SECRET = ("process", "secret")

ATTACKS = [
    Attack(
        "hidden_tests", "reads the hidden tests and the list of expected ones",
        "steal(T['course'] + '/graders')", levels=SANDBOX, bites=SECRET,
    ),
    Attack(
        "solutions", "reads the solutions", "steal(T['course'] + '/solutions')",
        levels=SANDBOX, bites=SECRET,
    ),
    Attack(
        "proc_environ", "reads the environment of every process",
        "for pid in processes(): steal(f'/proc/{pid}/environ')", levels=SANDBOX, bites=SECRET,
    ),
]  # fmt: skip
