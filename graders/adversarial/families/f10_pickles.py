"""Serialised code: pickles, torch files, arrays of objects.

Nothing that crosses is ever unpickled: the codec knows plain data, tensors and numbers only.
"""

from ..attack import Attack

EVIL = """
import pickle
class Evil:
    def __reduce__(self):
        return (open, (T["marker"], "w"))
"""

ATTACKS = [
    Attack(
        "reduce",
        "returns an object that would run code where it is unpickled",
        before=EVIL,
        answer="Evil()",
    ),
    Attack(
        "pickle_bytes",
        "returns a pickle's bytes, and sends them as a message",
        before=EVIL,
        code="send(frame(pickle.dumps(Evil())))",
        answer="pickle.dumps(Evil())",
    ),
    Attack(
        "reduced_tensor",
        "a tensor subclass with a __reduce_ex__ of its own",
        before=EVIL + "class Tensor(torch.Tensor):\n"
        "    def __reduce_ex__(self, protocol): return Evil().__reduce__()\n",
        answer="x.as_subclass(Tensor)",
    ),
    Attack(
        "object_array",
        "returns a numpy array of objects",
        before=EVIL + "import numpy\n",
        answer="numpy.array([Evil()] * 5, dtype=object)",
    ),
    Attack(
        "torch_file",
        "leaves torch files and pickles where somebody might load them",
        before=EVIL,
        code="""
            for name in ('model.pt', 'results.pkl', 'checkpoint.bin'):
                Path(name).write_bytes(pickle.dumps(Evil()))
        """,
    ),
    Attack(
        "exception_args",
        "raises an exception that holds one",
        before=EVIL,
        code="raise ValueError(Evil())",
    ),
]
