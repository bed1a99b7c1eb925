"""Frames, the garbage collector and source code: looking for the answer in the caller.

Expected values and the tests' source are in another process.
"""

from ..attack import Attack

FOUND = ("none", "marker")

ATTACKS = [
    Attack(
        "frames",
        "walks the callers' frames and prints what they hold",
        """
            frame_ = sys._getframe()
            while frame_:
                loot(repr(frame_.f_globals.get('SECRET', '')), 'frame')
                loot(repr(frame_.f_locals)[:100000], 'frame')
                frame_ = frame_.f_back
            for frame_ in sys._current_frames().values():
                while frame_:
                    loot(repr(frame_.f_globals.get('SECRET', '')), 'f')
                    frame_ = frame_.f_back
        """,
        bites=FOUND,
    ),
    Attack(
        "collector",
        "asks the collector for every object",
        """
            import gc
            for thing in gc.get_objects():
                if isinstance(thing, dict) and isinstance(thing.get('SECRET'), str):
                    loot(thing['SECRET'], 'gc')
        """,
    ),
    Attack(
        "modules",
        "looks through every imported module for tests and their source",
        """
            import inspect
            for name, module in list(sys.modules.items()):
                if 'test' in name or 'hidden' in name:
                    with contextlib.suppress(Exception): loot(inspect.getsource(module), name)
                    loot(repr(vars(module).get('SECRET')), name)
        """,
        bites=FOUND,
    ),
    Attack(
        "right_answer_in_frames",
        "returns the first tensor in the callers that fits and is not x",
        """
            import gc
            global found
            fits = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == x.shape
                    and t.dtype == x.dtype and not torch.equal(t, x)]
            found = fits[0] if fits else torch.zeros_like(x)
        """,
        answer="found",
    ),
    Attack(
        "ipython",
        "installs the AST transformer that drops asserts from notebooks",
        before="""
            import ast
            class Drop(ast.NodeTransformer):
                visit_Assert = lambda self, node: None
            with contextlib.suppress(Exception):
                from IPython import get_ipython
                get_ipython().ast_transformers.append(Drop())
        """,
    ),
    Attack(
        "tracer",
        "traces and profiles everything that runs after it",
        """
            def spy(frame_, event, arg):
                loot(repr(frame_.f_globals.get('SECRET', '')), 'trace')
                return spy
            sys.settrace(spy); sys.setprofile(spy); threading.settrace(spy)
        """,
        bites=FOUND,
    ),
]
