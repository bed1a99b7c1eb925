"""Library calls in place of one's own work, and libraries patched.

Where a task is about the work itself, its tests look at the submission's allocations or kernels; no
patch in the worker reaches the oracle's libraries.
"""

from ..attack import Attack

ATTACKS = [
    Attack(
        "patched_torch",
        "patches what torch does with tensors",
        before="""
            torch.Tensor.__mul__ = lambda a, b: a
            torch.Tensor.double = torch.Tensor.float = lambda self: self
            torch.frombuffer = lambda *a, **k: torch.zeros(5)
        """,
        answer="x",
    ),
    Attack(
        "patched_codec",
        "patches the codec, so that its answer is packed as another",
        before="""
            for name, module in list(sys.modules.items()):
                if name == 'graders.wire.codec':
                    module.Packer.pack = lambda self, value, depth=0: True
                    module.MAX_DEPTH = module.MAX_ITEMS = 10**9
        """,
    ),
    Attack(
        "patched_servant",
        "replaces the function that answers for it",
        before="""
            for name, module in list(sys.modules.items()):
                if name == 'graders.worker.servant':
                    yes = encode(['Ok', True, []])
                    module.Servant.handle = lambda self, payload, fds: (yes, None)
                    module.Servant._reply = lambda *a: None
        """,
    ),
    Attack(
        "dispatch",
        "installs a dispatch mode for all that torch does after it",
        """
            from torch.utils._python_dispatch import TorchDispatchMode
            class Mode(TorchDispatchMode):
                def __torch_dispatch__(self, function, types, args=(), kwargs=None): return args[0]
            Mode().__enter__()
        """,
    ),
    Attack(
        "custom_operator",
        "registers operators over torch's own",
        before="""
            with contextlib.suppress(Exception):
                library = torch.library.Library('aten', 'IMPL')
                library.impl('equal', lambda a, b: True, 'CPU')
                library.impl('mul.Tensor', lambda a, b: a, 'CPU')
        """,
        answer="x",
    ),
]
