"""Frames, the garbage collector and source code: looking for the answer in the caller.

Expected values and the tests' source are in another process.
"""

from ..attack import Attack

FOUND = ("none", "secret")

ATTACKS = [
    Attack("frames", "walks the callers' frames and prints what they hold",
           "frame_ = sys._getframe()\n"
           "while frame_:\n"
           "    loot(repr(frame_.f_globals.get('SECRET', '')), 'frame')\n"
           "    loot(repr(frame_.f_locals)[:100000], 'frame')\n"
           "    frame_ = frame_.f_back\n"
           "for frame_ in sys._current_frames().values():\n"
           "    while frame_: loot(repr(frame_.f_globals.get('SECRET', '')), 'f'); frame_ = frame_.f_back",
           bites=FOUND),
    Attack("collector", "asks the collector for every object",
           "import gc\n"
           "for thing in gc.get_objects():\n"
           "    if isinstance(thing, dict) and isinstance(thing.get('SECRET'), str):\n"
           "        loot(thing['SECRET'], 'gc')", bites=FOUND),
    Attack("modules", "looks through every imported module for tests and their source",
           "import inspect\n"
           "for name, module in list(sys.modules.items()):\n"
           "    if 'test' in name or 'hidden' in name:\n"
           "        with contextlib.suppress(Exception): loot(inspect.getsource(module), name)\n"
           "        loot(repr(vars(module).get('SECRET')), name)", bites=FOUND),
    Attack("right_answer_in_frames", "returns the first tensor in the callers that fits and is not x",
           "import gc\n"
           "global found\n"
           "fits = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == x.shape\n"
           "        and t.dtype == x.dtype and not torch.equal(t, x)]\n"
           "found = fits[0] if fits else torch.zeros_like(x)",
           answer="found"),
    Attack("ipython", "installs the AST transformer that drops asserts from notebooks",
           before="import ast\n"
           "class Drop(ast.NodeTransformer):\n    visit_Assert = lambda self, node: None\n"
           "with contextlib.suppress(Exception):\n"
           "    from IPython import get_ipython\n"
           "    get_ipython().ast_transformers.append(Drop())"),
    Attack("tracer", "traces and profiles everything that runs after it",
           "def spy(frame_, event, arg):\n"
           "    loot(repr(frame_.f_globals.get('SECRET', '')), 'trace')\n"
           "    return spy\n"
           "sys.settrace(spy); sys.setprofile(spy); threading.settrace(spy)", bites=FOUND),
]  # fmt: skip
