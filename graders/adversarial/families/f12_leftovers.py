"""What is left for the next one: GPU memory, global state, caches, warmed-up libraries.

Each task is graded in a fresh fork of a process that never loaded a submission; a GPU's memory ends
with the process, and a GPU has one job at a time unless the instructor says otherwise.
"""

from ..attack import Attack

ATTACKS = [
    Attack(
        "global_state",
        "changes torch's global state for whoever comes next",
        """
            torch.set_default_dtype(torch.float16)
            torch.set_num_threads(1)
            torch.set_grad_enabled(False)
            torch.use_deterministic_algorithms(True)
            torch.manual_seed(0)
            torch.set_flush_denormal(True)
        """,
    ),
    Attack(
        "cuda_memory",
        "holds on to all memory of a GPU, where there is one",
        """
            with contextlib.suppress(Exception):
                held = torch.empty(2**40, dtype=torch.uint8, device='cuda')
            with contextlib.suppress(Exception): torch.cuda.init()
        """,
    ),
    Attack(
        "device_files",
        "opens every device file there is",
        """
            ORDINARY = 'null zero full random urandom stdin stdout stderr'.split()
            for folder, _, names in os.walk('/dev' if fenced() else '/dev/none'):
                for name in names:
                    with contextlib.suppress(OSError):
                        fd = os.open(f'{folder}/{name}', os.O_RDWR | os.O_NONBLOCK)
                        if name not in ORDINARY and not folder.endswith('/fd'): mark(name)
        """,
        levels=("sandbox",),
    ),
    Attack(
        "shared_names",
        "leaves shared memory, semaphores and message queues under known names",
        """
            from multiprocessing import shared_memory
            with contextlib.suppress(OSError):
                shared_memory.SharedMemory('inferlab-attack', create=True, size=4096)
            if os.path.exists('/dev/shm/inferlab-attack'):
                Path('/dev/shm/inferlab-seen').write_text('1')
            key = syscall(29, 4711, 4096, 0o1666)
            if key >= 0: mark('System V shared memory')
        """,
        levels=("sandbox",),
    ),
    Attack(
        "patched_library",
        "writes into the installed packages that the next one imports",
        """
            for path in (torch.__file__, os.__file__, contextlib.__file__):
                with contextlib.suppress(OSError):
                    os.close(os.open(path, os.O_WRONLY)); mark('could write ' + path)
        """,
        levels=("sandbox",),
        bites=("process", "marker"),
    ),
]
