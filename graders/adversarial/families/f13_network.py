"""The network, in every family, and sockets of this machine.

The sandbox has a network namespace of its own without an interface, no family but Unix and
netlink, and no socket file of the host's.
"""

from ..attack import SANDBOX, Attack

TOUCHED = ("process", "listener")

ATTACKS = [
    Attack(
        "tcp",
        "connects to a listener by TCP",
        "connect(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', T['ports']['tcp']))",
        levels=SANDBOX,
        bites=TOUCHED,
    ),
    Attack(
        "tcp6",
        "the same by IPv6",
        """
            if 'tcp6' in T['ports']:
                connect(socket.AF_INET6, socket.SOCK_STREAM, ('::1', T['ports']['tcp6']))
        """,
        levels=SANDBOX,
    ),
    Attack(
        "udp",
        "sends a datagram",
        "connect(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', T['ports']['udp']))",
        levels=SANDBOX,
        bites=TOUCHED,
    ),
    Attack(
        "unix",
        "connects to a socket file",
        "connect(socket.AF_UNIX, socket.SOCK_STREAM, T['unix'])",
        levels=SANDBOX,
        bites=TOUCHED,
    ),
    Attack(
        "abstract",
        "connects to an abstract socket",
        "connect(socket.AF_UNIX, socket.SOCK_STREAM, T['abstract'])",
        levels=SANDBOX,
        bites=TOUCHED,
    ),
    Attack(
        "scan",
        "looks for any abstract socket or socket file there is",
        r"""
            with contextlib.suppress(OSError):
                for line in open('/proc/net/unix').read().splitlines()[1:]:
                    name = line.split()[-1]
                    if name == '@' + T['abstract'][1:]:  # not those of another run beside this
                        connect(socket.AF_UNIX, socket.SOCK_STREAM, '\0' + name[1:])
            for path in ('/run/docker.sock', '/var/run/docker.sock', '/run/systemd/private'):
                if os.path.exists(path): mark(path)
        """,
        levels=SANDBOX,
        bites=TOUCHED,
    ),
    Attack(
        "every_family",
        "opens a socket of every family, type and protocol",
        """
            for family in range(64):
                for kind in (1, 2, 3, 5):
                    with contextlib.suppress(OSError):
                        socket.socket(family, kind).close()
                        if family not in (1, 16): mark(f'family {family} type {kind}')
        """,
        levels=SANDBOX,
        bites=("process", "marker"),
    ),
    Attack(
        "netlink",
        "brings up an interface by netlink, then connects",
        """
            import fcntl
            with contextlib.suppress(OSError):
                sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
                sock.bind((0, 0))
                sock.send(struct.pack('=IHHIIBxHiII', 32, 16, 5, 1, 0, 0, 0, 1, 1, 1))
            with contextlib.suppress(OSError):
                fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh22x', b'lo', 0x41))
            connect(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', T['ports']['tcp']))
        """,
        levels=SANDBOX,
    ),
    Attack(
        "raw",
        "sends raw packets, where that is allowed to root",
        """
            raw = (2, 3, 255), (17, 3, 768), (17, 2, 768), (40, 1, 0), (38, 5, 0)
            for family, kind, protocol in raw:
                with contextlib.suppress(OSError):
                    socket.socket(family, kind, protocol); mark(f'family {family}')
        """,
        levels=SANDBOX,
        bites=("process", "marker"),
    ),
    Attack(
        "by_child",
        "connects from another program",
        """
            import subprocess
            code = f'import socket; socket.create_connection(("127.0.0.1", {T["ports"]["tcp"]}), 1)'
            subprocess.run([sys.executable, '-S', '-c', code], capture_output=True, timeout=10)
        """,
        levels=SANDBOX,
    ),
    Attack(
        "download",
        "downloads the answer with the libraries there are",
        """
            import urllib.request
            with contextlib.suppress(Exception):
                urllib.request.urlopen(f'http://127.0.0.1:{T["ports"]["tcp"]}/answer', timeout=0.5)
        """,
        levels=SANDBOX,
        bites=TOUCHED,
    ),
    Attack(
        "names",
        "asks for an address by name, which leaves a question at a name server",
        """
            with contextlib.suppress(OSError): socket.getaddrinfo('localhost', T['ports']['tcp'])
            with contextlib.suppress(OSError):
                for line in open('/etc/resolv.conf'):
                    if line.startswith('nameserver'): mark(line)
        """,
        levels=SANDBOX,
    ),
    Attack(
        "passed_socket",
        "hands the oracle a socket that lingers when it is closed",
        """
            ours, theirs = socket.socketpair()
            with contextlib.suppress(OSError):
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 600))
            send(frame(encode(['Ok', None, []]), 1), [theirs.fileno()])
        """,
    ),
]
