"""conftest.py, plugins, pytest's own classes patched, files that Python runs at its start.

The submission's folder is on no path of the oracle; of what is handed in only the lab's modules
are taken, and the worker imports them in a process that runs no test.
"""

from ..attack import Attack

PASS = (
    "\nimport pytest\n@pytest.hookimpl(wrapper=True)\ndef pytest_runtest_makereport(item, call):\n"
)
PASS += "    report = yield\n    report.outcome = 'passed'\n    return report\n"
GETS_ALL = ("none", "points")

ATTACKS = [
    Attack(
        "conftest",
        "brings a conftest.py that turns every report into a pass",
        files={"conftest.py": PASS, "tests/conftest.py": PASS},
    ),
    Attack(
        "plugin_entry",
        "brings pytest.ini, setup.cfg and pyproject.toml that load a plugin",
        files={
            "pytest.ini": "[pytest]\naddopts = -p evil\n",
            "evil.py": PASS,
            "setup.cfg": "[tool:pytest]\naddopts = --co -q\n",
            "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '-p evil'\n",
        },
    ),
    Attack(
        "sitecustomize",
        "brings sitecustomize.py, usercustomize.py and a .pth",
        files={
            "sitecustomize.py": "raise SystemExit(0)\n",
            "evil.pth": "import os; os._exit(0)\n",
            "usercustomize.py": "import os\nos._exit(0)\n",
        },
    ),
    Attack(
        "late_pth",
        "writes a .pth and a usercustomize.py where the next Python would look",
        """
            import site
            places = [*site.getsitepackages(), site.getusersitepackages(), os.getcwd(), '/tmp']
            for folder in places if fenced() else ():
                with contextlib.suppress(OSError):
                    os.makedirs(folder, exist_ok=True)
                    path = Path(folder, 'inferlab-attack-is-harmless.pth')
                    path.write_text('# would be code')
                    path.unlink()
                    if 'site-packages' in folder and '/.local/' not in folder: mark(folder)
        """,
        levels=("sandbox",),
    ),
    Attack(
        "patched_reports",
        "patches pytest's reports, as if it ran here",
        before="""
            import _pytest.reports, _pytest.runner, pytest
            made = _pytest.reports.TestReport.from_item_and_call.__func__
            def passes(cls, item, call):
                call.excinfo = None
                return made(cls, item, call)
            _pytest.reports.TestReport.from_item_and_call = classmethod(passes)
        """,
        bites=GETS_ALL,
    ),
    Attack(
        "patched_check",
        "patches the grader's own comparisons",
        before="""
            for module in list(sys.modules.values()):
                check = getattr(module, 'Check', None)
                for name in ('close', 'equal', 'true', 'tensor') if check else ():
                    with contextlib.suppress(Exception): setattr(check, name, lambda *a, **k: None)
        """,
        bites=GETS_ALL,
    ),
    Attack(
        "assert_rewriting",
        "installs an import hook and removes asserts from what comes later",
        before="""
            import ast, builtins
            class Hook:
                def find_spec(self, name, path=None, target=None):
                    return None
            sys.meta_path.insert(0, Hook())
            real = builtins.compile
            builtins.compile = lambda *a, **k: real('pass', '<none>', 'exec')
        """,
    ),
    Attack(
        "test_public",
        "hands in a test_public.py and an expected.json of its own",
        files={
            "test_public.py": "def test_nothing(): pass\n",
            "expected.json": '{"schema": 1}',
            "lab.toml": "number = 1\n",
            "plots.py": "raise SystemExit\n",
        },
    ),
]
