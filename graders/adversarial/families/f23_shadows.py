"""Modules that shadow others, environment variables, preloaded libraries.

The fork server starts isolated (-I) with an empty environment and imports everything before a
submission is there; the submission is a package below labs, not a folder on the path.
"""

from ..attack import Attack

LIE = "def __getattr__(name):\n    raise SystemExit(0)\n"
SHADOWS = ("random", "torch", "json", "numpy", "msgspec", "graders", "labs", "pytest", "typing")

ATTACKS = [
    Attack(
        "standard_library",
        "brings modules named like Python's and the course's",
        files={f"{name}.py": LIE for name in SHADOWS},
    ),
    Attack(
        "packages",
        "brings packages named graders, labs, torch and tests",
        files={f"{name}/__init__.py": LIE for name in ("graders", "labs", "torch", "tests")}
        | {"labs/common/__init__.py": LIE, "graders/wire/codec.py": LIE},
    ),
    Attack(
        "init",
        "an __init__.py of the package that ends the process",
        files={"__init__.py": "import os\nos._exit(0)\n", "__main__.py": LIE},
    ),
    Attack(
        "course_library",
        "replaces the course library for what is imported later",
        before="""
            import types
            sys.modules['labs.common'] = types.ModuleType('labs.common')
            sys.modules['labs.common.units'] = types.ModuleType('labs.common.units')
        """,
    ),
    Attack(
        "harness",
        "brings an inferlab_harness of its own",
        files={"inferlab_harness.py": LIE},
        before="""
            import types
            sys.modules['inferlab_harness'] = types.ModuleType('x')
        """,
    ),
    Attack(
        "written_modules",
        "writes shadow modules where this and later workers look first",
        """
            for folder in [*sys.path, os.getcwd(), os.path.dirname(__file__)]:
                if folder != os.getcwd() and os.access(folder, os.W_OK):
                    mark(f'could write {folder}')
                for name in ('random.py', 'labs.py', 'honest.py') if fenced() else ():
                    with contextlib.suppress(OSError): Path(folder, name).write_text('')
        """,
        levels=("sandbox",),
        bites=("process", "marker"),
    ),
    Attack(
        "rewritten_task",
        "rewrites the modules of its other tasks after they were staged",
        """
            for path in Path(__file__).parent.glob('stream.py'):
                with contextlib.suppress(OSError):
                    path.chmod(0o666)
                    path.write_text('def up(n): yield from range(n)'); mark('rewrote its own stage')
        """,
        levels=("sandbox",),
        bites=("process", "marker"),
    ),
    Attack(
        "environment",
        "sets variables that torch, Python and the loader read",
        """
            os.environ.update(LD_PRELOAD='/tmp/evil.so', PYTHONPATH='/tmp', PYTHONSTARTUP='/tmp/x',
                PYTEST_ADDOPTS='--co', PYTEST_PLUGINS='evil', INFERLAB_KEY='/tmp/key',
                PYTHONINSPECT='1', LD_AUDIT='/tmp/evil.so')
        """,
    ),
    Attack(
        "preload",
        "compiles nothing, but loads a library by name into its process",
        """
            for name in ('libc.so.6', '/tmp/evil.so', 'libinferlab.so'):
                with contextlib.suppress(OSError): ctypes.CDLL(name)
            with contextlib.suppress(OSError):
                Path('/etc/ld.so.preload').read_text()
                mark('preload')
        """,
        levels=("sandbox",),
    ),
    Attack(
        "bytecode",
        "brings bytecode of another version of its own module",
        files={
            "__pycache__/honest.cpython-311.pyc": b"\x00" * 64,
            "double.so": b"\x7fELF",
            "double.pyc": b"\x00" * 16,
            "double.cpython-311-x86_64-linux-gnu.so": b"\x7fELF",
        },
    ),
]
