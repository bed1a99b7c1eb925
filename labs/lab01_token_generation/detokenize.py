"""Text from a stream of tokens, never half a character."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


def byte_alphabet() -> dict[str, int]:
    """The printable stand-ins byte-level BPE uses for the 256 bytes, as character -> byte.

    Printable Latin-1 bytes stand for themselves; the others, in order, get the characters from
    U+0100 on (so a space, byte 32, is written as U+0120). Source: GPT-2's ``bytes_to_unicode``.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {chr(byte): byte for byte in plain}
    table.update({chr(0x100 + n): byte for n, byte in enumerate(others)})
    return table


def piece_bytes(piece: str) -> bytes:
    """The bytes of one vocabulary entry of a byte-level BPE.

    A piece with a character outside the byte alphabet is an added token, written as it reads: its
    bytes are its UTF-8.
    """
    raise NotImplementedError("piece_bytes: your code here")


class IncrementalDetokenizer:
    """Turns token ids into text as they arrive.

    Whatever the tokens, the texts returned, joined, equal
    ``b"".join(token_bytes[t] for t in tokens).decode("utf-8", errors="replace")``, and nothing
    waits longer than it must: a character comes with the push that completes it, and U+FFFD with
    the push after which its bytes can no longer become a character. (After ED A0 .. ED BF, half a
    surrogate, Python's own incremental decoder waits for one byte more; that is accepted too.)
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """``token_bytes[i]`` holds the bytes of token ``i``, not necessarily whole characters."""
        self.token_bytes = token_bytes
        raise NotImplementedError("IncrementalDetokenizer.__init__: your code here")

    def push(self, token: int) -> str:
        """Take in one token; return the text that no later token can change, possibly empty."""
        raise NotImplementedError("IncrementalDetokenizer.push: your code here")

    def flush(self) -> str:
        """End of the stream: return what is held back (as U+FFFD), and start afresh."""
        raise NotImplementedError("IncrementalDetokenizer.flush: your code here")
