"""Memory that held the answer, and inputs changed so that they fit it.

The reference is computed in another process; an argument is compared afterwards with what was sent.
"""

from ..attack import Attack

ATTACKS = [
    Attack(
        "empty",
        "returns fresh memory and hopes for the reference's bytes",
        answer="torch.empty_like(x)",
    ),
    Attack(
        "empty_many",
        "looks through much fresh memory for something like the answer",
        """
            global best
            found = [torch.empty_like(x) for _ in range(2000)]
            best = next((t for t in found if bool(t.any()) and bool(torch.isfinite(t).all())), x)
        """,
        answer="best",
    ),
    Attack("in_place", "doubles the input and returns it", answer="x.mul_(2)"),
    Attack(
        "halved_input",
        "halves the input, so that it was right before",
        "x.mul_(0.5)",
        answer="x * 4",
    ),
    Attack(
        "in_place_view",
        "changes the input through a view, by numpy and by address",
        "x.view(torch.uint8).numpy()[:] = 0",
        answer="x",
    ),
    Attack(
        "in_place_raw",
        "writes to the input's address in C",
        "ctypes.memset(x.data_ptr(), 0, x.numel() * 4)",
        answer="x * 2",
    ),
    Attack("resized", "gives its input other memory", "x.set_(torch.zeros(3))", answer="x"),
    Attack(
        "hidden_change",
        "changes its input, and patches the comparison that would tell",
        before="""
            torch.equal = lambda a, b: True
            for name, module in list(sys.modules.items()):
                if name.startswith('graders.wire'):
                    for key in list(vars(module)):
                        if key in ('_equal', '_same_bits', '_same_bytes', '_ever_written'):
                            setattr(module, key, lambda *a: key != '_ever_written')
        """,
        code="x.zero_()",
        answer="x",
    ),
]
