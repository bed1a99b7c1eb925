"""Never ending, and taking everything: time, processes, memory, disk, output, descriptors.

The clock runs in the oracle and ends in SIGKILL of a whole pid namespace. Memory and processes are
watched from outside and limited by the kernel; all that is writable is memory of a fixed size.
"""

from ..attack import SANDBOX, Attack

ATTACKS = [
    Attack(
        "loop",
        "loops for ever, with every signal ignored",
        """
            for n in range(1, 65):
                with contextlib.suppress(OSError, ValueError): signal.signal(n, signal.SIG_IGN)
            while True: pass
        """,
    ),
    Attack(
        "alarm",
        "takes over SIGALRM and its timers, then sleeps",
        """
            signal.signal(signal.SIGALRM, lambda *a: None)
            signal.setitimer(signal.ITIMER_REAL, 0)
            time.sleep(600)
        """,
    ),
    Attack(
        "held_lock",
        "stays in a C function that holds the interpreter's lock",
        "ctypes.PyDLL(None).sleep(600)",
    ),
    Attack("long_power", "one instruction of Python that takes for ever", "10 ** 10 ** 9"),
    Attack(
        "regex",
        "a regular expression that backtracks for ever",
        "re.match('(a+)+$', 'a' * 60 + 'b')",
    ),
    Attack(
        "threads",
        "leaves threads behind that go on after the answer",
        """
            def spin():
                while True: pass
            for _ in range(20): threading.Thread(target=spin, daemon=True).start()
        """,
    ),
    Attack(
        "thread_at_exit",
        "a thread that is no daemon and would keep the process alive",
        """
            threading.Thread(target=time.sleep, args=(600,)).start()
            raise SystemExit
        """,
    ),
    Attack(
        "daemon",
        "a daemon in a session of its own, without a parent",
        """
            if daemon():
                for n in range(1, 65):
                    with contextlib.suppress(OSError, ValueError): signal.signal(n, signal.SIG_IGN)
                while True: mark('still alive'); time.sleep(0.1)
        """,
        levels=SANDBOX,
    ),
    Attack(
        "daemon_holds_pipe",
        "a daemon that holds the output pipe and the socket open",
        """
            if daemon():
                while True: time.sleep(1)
        """,
    ),
    Attack(
        "fugitive",
        "kills its supervisor, so that nobody ends the daemon it leaves",
        """
            if daemon():
                while True: time.sleep(1)
            os.kill(os.getppid(), signal.SIGKILL)
        """,
        levels=SANDBOX,
        bites=("process", "outlived"),
    ),
    Attack(
        "assassin",
        "a daemon that ends whoever is graded next",
        """
            here = os.getcwd()
            slot = here.rsplit('/', 2)[0]
            if daemon():
                until = time.monotonic() + 60
                while time.monotonic() < until:
                    for pid in processes():
                        with contextlib.suppress(OSError):
                            place = os.readlink(f'/proc/{pid}/cwd')
                            next_one = place.endswith('/scratch') and place.startswith(slot)
                            if next_one and place != here: os.kill(pid, signal.SIGKILL)
                    time.sleep(0.005)
                os._exit(0)
            os.kill(os.getppid(), signal.SIGKILL)
        """,
        levels=SANDBOX,
        bites=("process", "neighbour"),
    ),
    Attack(
        "fork_bomb",
        "forks without end",
        """
            until = time.monotonic() + 5
            while time.monotonic() < until:
                with contextlib.suppress(OSError): os.fork()
        """,
    ),
    Attack(
        "many_threads",
        "starts threads until there are no more",
        "while True: threading.Thread(target=time.sleep, args=(60,)).start()",
    ),
    Attack("memory", "takes ten gigabytes at once", "b = bytearray(10 * 10**9)"),
    Attack(
        "memory_by_many",
        "takes memory in many processes, each below the limit",
        """
            for _ in range(20):
                if os.fork() == 0:
                    b = bytearray(os.urandom(4096)) * (50 * 256)
                    time.sleep(60)
            time.sleep(60)
        """,
    ),
    Attack(
        "shared_memory",
        "takes shared memory, which is in no process's private count",
        """
            import mmap
            for _ in range(20):
                if os.fork() == 0:
                    m = mmap.mmap(-1, 2**28)
                    for at in range(0, 2**28, 4096): m[at] = 1
                    say('HELD 256 MiB'); time.sleep(60)
            time.sleep(60)
        """,
    ),
    Attack(
        "memory_files",
        "takes memory in files that have no name",
        """
            held = []
            while True:
                fd = os.memfd_create('m'); held.append(fd)
                for _ in range(64): os.write(fd, bytes(2**20))
        """,
    ),
    Attack(
        "sparse_giant",
        "answers with a tensor of a gibibyte of nothing",
        answer="torch.zeros(1, dtype=torch.uint8).expand(2**28 - 1)",
    ),
    Attack(
        "disk",
        "fills its folder with many large files",
        """
            for n in range(400):
                with contextlib.suppress(OSError):
                    with open(f'fill-{n}', 'wb', 0) as file: file.write(bytes(2**20))
        """,
        levels=SANDBOX,
        bites=("process", "disk"),
    ),
    Attack(
        "tmp_and_shm",
        "fills /tmp and /dev/shm",
        """
            for folder in ('/tmp', '/dev/shm') if fenced() else ():
                for n in range(400):
                    with contextlib.suppress(OSError):
                        with open(f'{folder}/fill-{n}', 'wb', 0) as file: file.write(bytes(2**20))
        """,
        levels=SANDBOX,
    ),
    Attack(
        "inodes",
        "makes a hundred thousand files",
        """
            for n in range(100_000):
                try: os.close(os.open(f'i{n}', os.O_CREAT | os.O_WRONLY))
                except OSError: break
        """,
        levels=SANDBOX,
        bites=("process", "disk"),
    ),
    Attack(
        "deep_folders",
        "makes folders so deep that a path cannot name them",
        """
            for n in range(1500):
                try: os.mkdir('d' * 200); os.chdir('d' * 200)
                except OSError: break
        """,
    ),
    Attack(
        "locked_folders",
        "leaves folders behind that nobody may enter",
        "for n in range(50): os.mkdir(f'locked-{n}'); os.chmod(f'locked-{n}', 0)",
    ),
    Attack("output", "prints without end", "while True: os.write(1, b'x' * 2**20)"),
    Attack(
        "output_control",
        "prints sixty-four megabytes that a record must write sixfold",
        "for _ in range(60): os.write(1, b'\\0' * 2**20)",
    ),
    Attack(
        "descriptors",
        "opens files until there are no more",
        """
            held = []
            while True: held.append(os.open('/dev/null', os.O_RDONLY))
        """,
    ),
    Attack(
        "pipes",
        "fills pipes, whose pages nobody counts",
        """
            import fcntl
            held = []
            with contextlib.suppress(OSError):
                while True:
                    read, write = os.pipe(); held += [read, write]
                    fcntl.fcntl(write, 1031, 2**20); os.set_blocking(write, False)
                    os.write(write, bytes(2**20))
        """,
    ),
    Attack(
        "stack",
        "recurses until the stack ends",
        """
            sys.setrecursionlimit(10**9)
            def down(): return down()
            down()
        """,
    ),
    Attack(
        "core",
        "leaves a core dump",
        """
            import resource
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))
            os.abort()
        """,
    ),
    Attack(
        "raised_limits",
        "raises its own limits, then takes what it likes",
        """
            import resource
            for kind in range(16):
                with contextlib.suppress(ValueError, OSError):
                    resource.setrlimit(kind, (2**62, 2**62)); mark(f'raised limit {kind}')
            os.sched_setaffinity(0, range(os.cpu_count()))
            with contextlib.suppress(OSError): os.nice(-10); mark('took priority')
        """,
        levels=SANDBOX,
    ),
]
