"""Never ending, and taking everything: time, processes, memory, disk, output, descriptors.

The clock runs in the oracle and ends in SIGKILL of a whole pid namespace. Memory and processes are
watched from outside and limited by the kernel; all that is writable is memory of a fixed size.
"""

from ..attack import SANDBOX, Attack

ATTACKS = [
    Attack("loop", "loops for ever, with every signal ignored",
           "for n in range(1, 65):\n"
           "    with contextlib.suppress(OSError, ValueError): signal.signal(n, signal.SIG_IGN)\n"
           "while True: pass"),
    Attack("alarm", "takes over SIGALRM and its timers, then sleeps",
           "signal.signal(signal.SIGALRM, lambda *a: None)\n"
           "signal.setitimer(signal.ITIMER_REAL, 0)\ntime.sleep(600)"),
    Attack("held_lock", "stays in a C function that holds the interpreter's lock",
           "ctypes.PyDLL(None).sleep(600)"),
    Attack("long_power", "one instruction of Python that takes for ever", "10 ** 10 ** 9"),
    Attack("regex", "a regular expression that backtracks for ever",
           "re.match('(a+)+$', 'a' * 60 + 'b')"),
    Attack("threads", "leaves threads behind that go on after the answer",
           "def spin():\n    while True: pass\n"
           "for _ in range(20): threading.Thread(target=spin, daemon=True).start()"),
    Attack("thread_at_exit", "a thread that is no daemon and would keep the process alive",
           "threading.Thread(target=time.sleep, args=(600,)).start()\nraise SystemExit"),
    Attack("daemon", "a daemon in a session of its own, without a parent",
           "if daemon():\n"
           "    for n in range(1, 65):\n"
           "        with contextlib.suppress(OSError, ValueError): signal.signal(n, signal.SIG_IGN)\n"
           "    while True: mark('still alive'); time.sleep(0.1)", levels=SANDBOX),
    Attack("daemon_holds_pipe", "a daemon that holds the output pipe and the socket open",
           "if daemon():\n    while True: time.sleep(1)"),
    Attack("fugitive", "kills its supervisor, so that nobody ends the daemon it leaves",
           "if daemon():\n"
           "    while True: time.sleep(1)\n"
           "os.kill(os.getppid(), signal.SIGKILL)",
           levels=SANDBOX, bites=("process", "outlived")),
    Attack("assassin", "a daemon that ends whoever is graded next",
           "me = os.getpid()\n"
           "if daemon():\n"
           "    until = time.monotonic() + 20\n"
           "    while time.monotonic() < until:\n"
           "        for pid in processes():\n"
           "            with contextlib.suppress(OSError):\n"
           "                name = os.readlink(f'/proc/{pid}/cwd')\n"
           "                mine = '/' .join(os.getcwd().split('/')[:-2])\n"
           "                if name.endswith('/scratch') and name.startswith(mine) and pid != me:\n"
           "                    if name != os.getcwd(): os.kill(pid, signal.SIGKILL)\n"
           "        time.sleep(0.005)\n"
           "    os._exit(0)\n"
           "os.kill(os.getppid(), signal.SIGKILL)",
           levels=SANDBOX, bites=("process", "neighbour")),
    Attack("fork_bomb", "forks without end",
           "until = time.monotonic() + 5\n"
           "while time.monotonic() < until:\n"
           "    with contextlib.suppress(OSError): os.fork()"),
    Attack("many_threads", "starts threads until there are no more",
           "while True: threading.Thread(target=time.sleep, args=(60,)).start()"),
    Attack("memory", "takes ten gigabytes at once", "b = bytearray(10 * 10**9)"),
    Attack("memory_by_many", "takes memory in many processes, each below the limit",
           "for _ in range(20):\n"
           "    if os.fork() == 0:\n"
           "        b = bytearray(os.urandom(4096)) * (50 * 256)\n"
           "        time.sleep(60)\n"
           "time.sleep(60)"),
    Attack("shared_memory", "takes shared memory, which is in no process's private count",
           "import mmap\n"
           "for _ in range(20):\n"
           "    if os.fork() == 0:\n"
           "        m = mmap.mmap(-1, 2**28)\n"
           "        for at in range(0, 2**28, 4096): m[at] = 1\n"
           "        say('HELD 256 MiB'); time.sleep(60)\n"
           "time.sleep(60)"),
    Attack("memory_files", "takes memory in files that have no name",
           "held = []\n"
           "while True:\n"
           "    fd = os.memfd_create('m'); held.append(fd)\n"
           "    for _ in range(64): os.write(fd, bytes(2**20))"),
    Attack("sparse_giant", "answers with a tensor of a gibibyte of nothing",
           answer="torch.zeros(1, dtype=torch.uint8).expand(2**28 - 1)"),
    Attack("disk", "fills its folder with many large files",
           "for n in range(400):\n"
           "    with contextlib.suppress(OSError):\n"
           "        with open(f'fill-{n}', 'wb', 0) as file: file.write(bytes(2**20))",
           levels=SANDBOX, bites=("process", "disk")),
    Attack("tmp_and_shm", "fills /tmp and /dev/shm",
           "for folder in ('/tmp', '/dev/shm') if fenced() else ():\n"
           "    for n in range(400):\n"
           "        with contextlib.suppress(OSError):\n"
           "            with open(f'{folder}/fill-{n}', 'wb', 0) as file: file.write(bytes(2**20))",
           levels=SANDBOX),
    Attack("inodes", "makes a hundred thousand files",
           "for n in range(100_000):\n"
           "    try: os.close(os.open(f'i{n}', os.O_CREAT | os.O_WRONLY))\n"
           "    except OSError: break",
           levels=SANDBOX, bites=("process", "disk")),
    Attack("deep_folders", "makes folders so deep that a path cannot name them",
           "for n in range(3000):\n"
           "    try: os.mkdir('d' * 200); os.chdir('d' * 200)\n"
           "    except OSError: break"),
    Attack("locked_folders", "leaves folders behind that nobody may enter",
           "for n in range(50): os.mkdir(f'locked-{n}'); os.chmod(f'locked-{n}', 0)"),
    Attack("output", "prints without end", "while True: os.write(1, b'x' * 2**20)"),
    Attack("output_control", "prints sixty-four megabytes that a record must write sixfold",
           "for _ in range(60): os.write(1, b'\\0' * 2**20)"),
    Attack("descriptors", "opens files until there are no more",
           "held = []\nwhile True: held.append(os.open('/dev/null', os.O_RDONLY))"),
    Attack("pipes", "fills pipes, whose pages nobody counts",
           "import fcntl\nheld = []\n"
           "with contextlib.suppress(OSError):\n"
           "    while True:\n"
           "        read, write = os.pipe(); held += [read, write]\n"
           "        fcntl.fcntl(write, 1031, 2**20); os.set_blocking(write, False)\n"
           "        os.write(write, bytes(2**20))"),
    Attack("stack", "recurses until the stack ends",
           "sys.setrecursionlimit(10**9)\ndef down(): return down()\ndown()"),
    Attack("core", "leaves a core dump", "import resource\n"
           "with contextlib.suppress(ValueError, OSError):\n"
           "    resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))\nos.abort()"),
    Attack("raised_limits", "raises its own limits, then takes what it likes",
           "import resource\n"
           "for kind in range(16):\n"
           "    with contextlib.suppress(ValueError, OSError):\n"
           "        resource.setrlimit(kind, (2**62, 2**62)); mark(f'raised limit {kind}')\n"
           "os.sched_setaffinity(0, range(os.cpu_count()))\n"
           "with contextlib.suppress(OSError): os.nice(-10); mark('took priority')",
           levels=SANDBOX),
]  # fmt: skip
