"""Fuzz the decoder with coverage as the guide; by hand, as atheris is in no group of this project.

    pip install atheris
    python -m tests.adversarial.fuzz_wire --runs 1000000 --corpus /tmp/corpus

An exception other than the documented ones, or a value that is no plain data, ends the run with the
bytes that brought it about. Without atheris the same is done with random mutations of valid
messages, which covers less; the run says so.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

import msgspec
import torch

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None:
    with atheris.instrument_imports(include=["graders.wire"]):
        from graders.wire import messages
        from graders.wire.codec import DTYPES, Packer
else:
    from graders.wire import messages
    from graders.wire.codec import DTYPES, Packer

from tests.adversarial.wire_values import feed

PREFIX = b"\x93\xa2Ok"


def seeds() -> list[bytes]:
    """A valid message of every kind of value."""
    values: list[object] = [
        None, True, -5, 2**70, 1.5, "text", b"bytes", [1, [2, (3,)]], {"a": 1, (1, 2): None},
        torch.float16, torch.device("cpu"), torch.Generator().manual_seed(1),
        torch.zeros(0, 3).numpy(), torch.ones(2, 2, dtype=torch.bool).numpy(),
    ]  # fmt: skip
    values += [torch.zeros(2, 3).to(dtype) for dtype in DTYPES.values()]
    found = [messages.encode(messages.Ok(Packer().pack(value), ["x"])) for value in values]
    found.append(messages.encode(messages.Ok(["h", 1, "iterator", "x"])))
    found.append(messages.encode(messages.Error(["E"], "message", "trace")))
    found.append(messages.encode(messages.Stop()))
    return found


def one(data: bytes) -> None:
    """The bytes as a whole message, and as the value of one."""
    feed(data)
    feed(PREFIX + data)


def with_atheris(runs: int, corpus: Path) -> None:
    """Never returns: the fuzzer ends the process."""
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-runs={runs}", "-max_len=4096", "-rss_limit_mb=4096", "-timeout=10"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def without_atheris(runs: int, seed: int) -> None:
    """Random changes of valid messages."""
    random.seed(seed)
    pool, started, slowest = seeds(), time.monotonic(), 0.0
    for _ in range(runs):
        data = bytearray(random.choice(pool))
        for _ in range(random.randint(1, 6)):
            at = random.randrange(len(data) + 1)
            if random.random() < 0.5 and at < len(data):
                data[at] = random.randrange(256)
            elif random.random() < 0.5:
                data[at:at] = random.choice(pool)[: random.randint(0, 40)]
            else:
                del data[at : at + random.randint(0, 9)]
        began = time.monotonic()
        one(bytes(data))
        slowest = max(slowest, time.monotonic() - began)
    seconds = time.monotonic() - started
    print(f"{runs} runs in {seconds:.0f} s, seed {seed}, slowest {slowest * 1e3:.1f} ms")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--corpus", type=Path, help="a folder that keeps what covered more")
    options = parser.parse_args()
    print(f"msgspec {msgspec.__version__}, torch {torch.__version__}, ", end="")
    if atheris is None:
        print("without atheris: random mutations only")
        without_atheris(options.runs, options.seed)
        return
    print("with atheris")
    corpus = options.corpus or Path("corpus")
    corpus.mkdir(parents=True, exist_ok=True)
    with_atheris(options.runs, corpus)


if __name__ == "__main__":
    main()
