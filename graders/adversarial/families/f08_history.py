"""Git history, a solutions branch, installed packages and caches.

A release has one root commit, checked object by object (tests/release); in the sandbox there is
no repository, and the environment holds no package of the course.
"""

from ..attack import SANDBOX, Attack

SECRET = ("process", "secret")

ATTACKS = [
    Attack(
        "git_objects",
        "reads the course's repository",
        "steal(T['course'] + '/.git')",
        levels=SANDBOX,
        bites=SECRET,
    ),
    Attack(
        "git_log",
        "asks git for every version of the solution",
        """
            import subprocess
            for command in (['git', '-C', T['course'], 'log', '--all', '-p'],
                            ['cat', T['course'] + '/.git/HEAD']):
                with contextlib.suppress(OSError):
                    loot(subprocess.run(command, capture_output=True).stdout, 'git')
        """,
        levels=SANDBOX,
        bites=SECRET,
    ),
    Attack(
        "installed",
        "imports solutions, hidden tests and the oracle as packages",
        """
            import importlib
            for name in ('solutions', 'solutions.lab93_target.double', 'graders.lab93.test_hidden',
                         'graders.oracle.checks', 'graders.oracle.grade', 'graders.signing',
                         'graders.adversarial.course', 'labs.lab93_target.solution'):
                with contextlib.suppress(ImportError):
                    importlib.import_module(name); mark('imported ' + name)
        """,
    ),
    Attack(
        "installed_by_path",
        "puts the course's root on the path and imports the solution",
        """
            sys.path.insert(0, T['course'])
            for name in list(sys.modules):
                if name == 'solutions' or name.startswith('solutions.'): del sys.modules[name]
            global right
            from importlib import machinery
            path = T['course'] + '/solutions/lab93_target/double.py'
            right = machinery.SourceFileLoader('right', path).load_module()
        """,
        answer="right.double(x)",
        levels=SANDBOX,
        bites=("process", "points"),
    ),
    Attack(
        "caches",
        "looks into bytecode, wheels and pip's caches",
        """
            for path in ('~/.cache/pip', '~/.cache/uv', '/root/.cache/pip', '/root/.cache/uv'):
                for _, _, names in list(os.walk(os.path.expanduser(path)))[:200]:
                    if any('inferlab' in name for name in names): mark('a wheel of the course')
            steal(T['course'] + '/labs')
            for path in sys.path:
                for name in os.listdir(path) if os.path.isdir(path) else []:
                    if 'inferlab' in name and 'harness' not in name: mark(name)
        """,
    ),
]
