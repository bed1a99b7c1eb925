"""Leaving early: exits, signals, and success by exit status.

A result is a pass only if its test passed in the oracle; no exit status is looked at, and the
next task has a process of its own.
"""

from ..attack import SANDBOX, Attack

ATTACKS = [
    Attack("sys_exit", "raises SystemExit(0)", "sys.exit(0)"),
    Attack("os_exit", "ends its process with status 0", "os._exit(0)"),
    Attack(
        "exit_at_import",
        "ends its process while it is imported",
        before="""
            ran()
            os._exit(0)
        """,
    ),
    Attack("kill_self", "kills itself", "os.kill(os.getpid(), signal.SIGKILL)"),
    Attack("abort", "aborts in C", "libc.abort()"),
    Attack("stop_self", "stops itself with SIGSTOP", "os.kill(os.getpid(), signal.SIGSTOP)"),
    Attack("interrupt", "raises KeyboardInterrupt, as Ctrl-C would", "raise KeyboardInterrupt"),
    Attack(
        "interrupt_oracle",
        "sends Ctrl-C to its process group and session",
        """
            if fenced(): os.kill(0, signal.SIGINT)
            os.kill(os.getppid(), signal.SIGINT)
        """,
        levels=SANDBOX,
    ),
    Attack(
        "signal_ancestors",
        "kills every ancestor it can name, the oracle first",
        """
            for pid in [T['oracle'], *(parents() if fenced() else ())]:
                with contextlib.suppress(OSError): os.kill(pid, signal.SIGKILL)
        """,
        levels=SANDBOX,
        bites=("process", "failed"),
    ),
    Attack(
        "kill_bystander",
        "kills a stranger's process by its pid",
        "os.kill(T['bystander'], signal.SIGKILL)",
        levels=SANDBOX,
        bites=("process", "killed"),
    ),
    Attack(
        "kill_everybody",
        "kills every process it may signal, in its namespace",
        "if fenced(): os.kill(-1, signal.SIGKILL)",
        levels=SANDBOX,
    ),
    Attack(
        "kill_init",
        "sends every signal to process 1 of its namespace",
        """
            for n in range(1, 65):
                with contextlib.suppress(OSError):
                    if fenced(): os.kill(1, n)
        """,
        levels=SANDBOX,
    ),
    Attack(
        "die_in_str",
        "an exception whose text leaves the process",
        before="""
            class Leaves(Exception):
                def __str__(self): os._exit(0)
        """,
        code="raise Leaves",
    ),
]
