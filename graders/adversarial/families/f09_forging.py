"""Forging the result: files, exit handlers, descriptors, and the protocol itself.

The record is made in the oracle after the worker is dead, and signed with a key no worker sees.
A worker has one socket; what it writes there is a reply or a broken protocol, each bounded in
size, and never more than an answer to the question that was asked.
"""

from ..attack import SANDBOX, Attack

EARNED = '{"earned": 100, "status": "passed"}'

ATTACKS = [
    Attack(
        "results_file",
        "writes over the results and the JUnit report",
        "for name in ('record.json', 'report.xml', 'gradebook.db'):\n"
        "    with contextlib.suppress(OSError):\n"
        f"        Path(T['outside'], name).write_text('{EARNED}')",
        levels=SANDBOX,
        bites=("process", "altered"),
    ),
    Attack(
        "atexit_file",
        "writes results wherever it can when its process ends",
        before="import atexit\n"
        "def forge():\n"
        "    for folder in ('.', '..', '/tmp', T['outside']):\n"
        "        for name in ('record.json', 'results.json', 'report.xml', 'marker'):\n"
        "            with contextlib.suppress(OSError):\n"
        f"                Path(folder, name).write_text('{EARNED}')\n"
        "atexit.register(forge)",
        code="forge()",
        levels=SANDBOX,
        bites=("process", "altered"),
    ),
    Attack(
        "printed_record",
        "prints a record, a report and the grader's own lines",
        f"say('{EARNED}')\n"
        'say(\'{"kind":"record","key":"","record":{"schema":1}}\')\n'
        "say('2 passed in 0.01s')\nsay('PASSED double')",
    ),
    Attack(
        "descriptors",
        "writes forged answers to every inherited descriptor",
        r"""
            for fd in range(3, 256):
                with contextlib.suppress(OSError):
                    os.write(fd, b'{"kind":"record","key":"","record":{}}\n')
        """,
    ),
    Attack(
        "ended",
        "tells its supervisor's control socket, if it has it, that all went well",
        """
            for fd in range(3, 256):
                with contextlib.suppress(OSError):
                    os.write(fd, b'{"code":0,"reason":"","peak_bytes":0}')
        """,
    ),
    Attack("huge_header", "announces four gibibytes", "send(frame(b'', length=2**32 - 1))"),
    Attack(
        "too_long", "announces a byte more than is allowed", "send(frame(b'', length=2**24 + 1))"
    ),
    Attack(
        "stalled",
        "announces sixteen mebibytes, sends ten bytes and waits",
        """
            send(frame(b'0123456789', length=2**24))
            time.sleep(60)
        """,
    ),
    Attack(
        "truncated",
        "sends half a frame and leaves",
        """
            send(frame(b'half', length=100))
            os._exit(0)
        """,
    ),
    Attack(
        "dripping",
        "sends its answer a byte at a time",
        "for byte in answer(['l', [1] * 1000]): send(bytes([byte])); time.sleep(0.01)",
    ),
    Attack("empty_frame", "sends a frame of no bytes", "send(frame(b''))"),
    Attack("garbage", "sends bytes that are no message", "send(frame(b'\\xc1' * 4096))"),
    Attack(
        "random",
        "sends random frames of every length",
        """
            import random
            r = random.Random(1)
            for n in range(200): send(frame(r.randbytes(n)))
        """,
    ),
    Attack(
        "flood",
        "sends answers without end, ahead of every question",
        "while True: send(answer(True))",
    ),
    Attack(
        "duplicates",
        "answers each question three times, wrong and right",
        """
            for value in (None, True, ['T', 'float32', [5], 'cpu', '', bytes(20)]):
                send(answer(value))
        """,
    ),
    Attack(
        "early",
        "answers the next ten questions before they are asked",
        "for _ in range(10): send(answer(['T', 'float32', [5], 'cpu', '', bytes(20)]))",
    ),
    Attack(
        "request",
        "sends requests in place of replies",
        """
            send(frame(encode(['Call', ['double', 0, 'double'], ['t', []], ['d', []]])))
            send(frame(encode(['Get', ['', 1, '__class__']])))
        """,
    ),
    Attack(
        "fake_handle",
        "returns handles of objects that there are not",
        """
            send(answer(['h', -1, 'iterator', 'x']))
            send(answer(['h', 2**70, 'object', 'x']))
        """,
    ),
    Attack(
        "wrong_tags",
        "sends values of unknown and half-made kinds",
        """
            for tree in (['?'], ['T'], ['T', 'float32'], ['D', 'os', 'system', {'command': 'id'}],
                         ['A', 'O', [1], bytes(8)], ['y', 'nope'], ['g', 'cuda', b''], [], [[]],
                         ['l']):
                send(answer(tree))
        """,
    ),
    Attack(
        "dataclass",
        "asks the oracle to import modules and build objects by name",
        """
            for module in ('os', 'subprocess', 'labs.common.train_tiny', 'labs.common.../x',
                           'labs.common.os', 'graders.signing'):
                send(answer(['D', module, 'Popen', {'args': 'id'}]))
        """,
    ),
    Attack(
        "deep",
        "nests a value a million levels deep",
        "send(frame(b'\\x93\\xa2Ok' + b'\\x91' * 10**6 + b'\\xc0' + b'\\x90'))",
    ),
    Attack("many_items", "sends millions of empty lists", "send(answer(['l', [[]] * 10**6 * 4]))"),
    Attack(
        "shape_lies",
        "sends tensors whose shape, size and bytes do not fit",
        """
            for shape in ([2**62, 4], [-1], [5, -1], [2**31, 2**31], [0, 2**63 - 1], [1] * 100):
                send(answer(['T', 'float32', shape, 'cpu', '', bytes(20)]))
        """,
    ),
    Attack(
        "wrong_file",
        "sends files that are no sealed memory file as a tensor's bytes",
        """
            fd = os.open('/dev/zero', os.O_RDONLY)
            read, write = os.pipe()
            tree = ['T', 'uint8', [10**6], 'cpu', '', 0]
            data = encode(['Ok', tree, []])
            for f in (fd, read, os.open('.', os.O_RDONLY)): send(frame(data, 1), [f])
        """,
    ),
    Attack(
        "shrinking_file",
        "sends a memory file and shrinks it while it is read",
        """
            fd = os.memfd_create('t')
            os.ftruncate(fd, 10**6)
            data = encode(['Ok', ['T', 'uint8', [10**6], 'cpu', '', 0], []])
            send(frame(data, 1), [fd])
            while True: os.ftruncate(fd, 0); os.ftruncate(fd, 10**6)
        """,
    ),
    Attack(
        "many_descriptors",
        "sends as many descriptors as a message holds, again and again",
        """
            fds = [os.open('/dev/null', os.O_RDONLY) for _ in range(60)]
            sock = channel()
            for _ in range(50):
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))
                sock.sendmsg([b'x'], [rights])
        """,
    ),
    Attack(
        "long_error",
        "says an exception of sixteen mebibytes was raised",
        """
            big = 'x' * (2**22 - 100)
            send(error([big], big, big, big[:1000]))
        """,
    ),
    Attack(
        "long_mutation",
        "says that arguments with very long names were changed",
        "send(frame(encode(['Ok', None, ['x' * (2**22)] * 3])))",
    ),
    Attack(
        "long_subclass",
        "returns a tensor with a class name of megabytes",
        "send(answer(['T', 'float32', [5], 'y' * 2**22, 'x' * 2**22, bytes(20)]))",
    ),
    Attack(
        "long_dict",
        "returns a dictionary that takes megabytes to show",
        "send(answer(['d', [[n, 'x' * 300] for n in range(40_000)]]))",
    ),
    Attack(
        "long_kind",
        "returns an object whose kind has megabytes",
        "send(answer(['h', 1, 'x' * 2**22, 'object']))",
    ),
    Attack(
        "collisions",
        "returns a dictionary whose keys all hash alike, to keep the oracle busy",
        """
            pairs = [[['i', str(n * (2**61 - 1))], 0] for n in range(1, 150_000)]
            send(answer(['d', pairs]))
        """,
    ),
    Attack(
        "map_collisions",
        "the same in the encoding itself, before anything is looked at",
        r"""
            import msgspec
            P1, P2, P5 = 11400714785074694791, 14029467366897019727, 2870177450012600261
            M = 2**64 - 1
            rotl = lambda v: (v << 31 | v >> 33) & M
            rotr = lambda v: (v >> 31 | v << 33) & M
            inv1, inv2 = pow(P1, -1, 2**64), pow(P2, -1, 2**64)
            goal, keys, a = 12345, [], 0
            until = time.monotonic() + 1.2
            while time.monotonic() < until:
                a += 1
                one = rotl((P5 + a * P2) & M) * P1 & M
                b = (rotr(goal * inv1 & M) - one) * inv2 & M
                if b < 2**61 - 1: keys.append((a, b))
            body = b''.join(msgspec.msgpack.encode(k) + b'\xc0' for k in keys)
            head = b'\x93\xa2Ok' + b'\xdf' + struct.pack('!I', len(keys))
            say(f'{len(keys)} keys, {len(set(map(hash, keys[:100])))} hash')
            send(frame(head + body + b'\x90'))
        """,
    ),
    Attack(
        "endless_stream",
        "a stream without end, whose every item has megabytes",
        task="stream",
        answer="iter(lambda: bytes(15 * 2**20), 1)",
    ),
    Attack(
        "slow_to_read",
        "a stream without end of values that take long to read",
        before="value = [[] for _ in range(900_000)]",
        task="stream",
        answer="iter(lambda: value, 1)",
    ),
    Attack(
        "length_lies",
        "an object that says it has more items than there are numbers",
        before="""
            class Long:
                __len__ = lambda self: 2**62
                __iter__ = lambda self: iter([0, 1, 2])
        """,
        task="stream",
        answer="Long()",
        earns={"honest": 20.0},
    ),
]
