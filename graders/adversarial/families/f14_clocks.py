"""Clocks and events patched, so that everything took no time.

The oracle stamps both ends with its own clock, in its own process.
"""

from ..attack import Attack

RIGHT = "x.double().sum().reshape(1)"
SLEEP = "time.sleep(0.05)"

ATTACKS = [
    Attack(
        "frozen_clock",
        "stops every clock of Python's while it sleeps",
        SLEEP,
        before="""
            real = time.sleep
            for name in ('time', 'perf_counter', 'monotonic', 'process_time', 'perf_counter_ns'):
                setattr(time, name, lambda: 0.0)
        """,
        task="speed",
        answer=RIGHT,
        earns={"honest": 20.0, "speed": 20.0},
    ),
    Attack(
        "negative_time",
        "a clock that runs backwards",
        before="""
            import itertools
            ticks = itertools.count(0, -1)
            time.perf_counter = time.monotonic = time.time = lambda: float(next(ticks))
        """,
        task="speed",
        answer="torch.zeros(1)",
    ),
    Attack(
        "cuda_events",
        "patches CUDA's events and synchronize to measure nothing",
        before="""
            torch.cuda.Event = type('Event', (), {'__init__': lambda s, **k: None,
                'record': lambda s: None, 'synchronize': lambda s: None,
                'elapsed_time': lambda s, o: 0.0})
            torch.cuda.synchronize = lambda *a: None
        """,
        task="speed",
        answer="torch.zeros(1)",
    ),
    Attack(
        "grader_clock",
        "patches the modules of the measurement by name",
        before="""
            import types
            fake = types.ModuleType('graders.oracle.gpu')
            fake.timed = lambda call, device='cpu': (1e-9, call())
            fake.Measurement = type('M', (), {'require_possible': lambda s: None})
            sys.modules['graders.oracle.gpu'] = fake
        """,
        task="speed",
        answer="torch.zeros(1)",
    ),
    Attack(
        "system_clock",
        "sets the machine's clock and its own clock's namespace",
        """
            libc.clock_settime(0, ctypes.byref((ctypes.c_long * 2)(0, 0))) if fenced() else 0
            if fenced() and abs(time.time()) < 10**6: mark('set the clock')
            syscall(272, 0x80)
        """,
        levels=("sandbox",),
        task="speed",
        answer="torch.zeros(1)",
    ),
    Attack(
        "notes",
        "prints figures and lines as the grader writes them",
        """
            say('total: 99 % of the roofline')
            say('{"samples_s": [1e-12]}')
        """,
        task="speed",
        answer="torch.zeros(1)",
    ),
]
