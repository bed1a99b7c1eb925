"""Detokenization by a UTF-8 state machine written out by hand."""

from functools import cache


@cache
def _table():
    stands = {}
    extra = 0
    for byte in range(256):
        if byte <= 0x20 or 0x7F <= byte <= 0xA0 or byte == 0xAD:
            stands[chr(0x100 + extra)] = byte
            extra += 1
        else:
            stands[chr(byte)] = byte
    return stands


def piece_bytes(piece):
    """As the solution."""
    table = _table()
    known = [table.get(c) for c in piece]
    return piece.encode("utf-8") if None in known else bytes(known)


class IncrementalDetokenizer:
    """Keeps the code point so far, how many bytes it still needs, and what the next may be."""

    def __init__(self, token_bytes):
        self.token_bytes = token_bytes
        self._start()

    def _start(self):
        self.need, self.point, self.low, self.high = 0, 0, 0x80, 0xBF

    def _byte(self, byte):
        if self.need:
            if self.low <= byte <= self.high:
                self.point = self.point << 6 | byte & 0x3F
                self.need, self.low, self.high = self.need - 1, 0x80, 0xBF
                return "" if self.need else chr(self.point)
            self._start()
            return "\ufffd" + self._byte(byte)
        if byte < 0x80:
            return chr(byte)
        if 0xC2 <= byte <= 0xDF:
            self.need, self.point = 1, byte & 0x1F
        elif 0xE0 <= byte <= 0xEF:
            self.need, self.point = 2, byte & 0x0F
            self.low = 0xA0 if byte == 0xE0 else 0x80
            self.high = 0x9F if byte == 0xED else 0xBF
        elif 0xF0 <= byte <= 0xF4:
            self.need, self.point = 3, byte & 0x07
            self.low = 0x90 if byte == 0xF0 else 0x80
            self.high = 0x8F if byte == 0xF4 else 0xBF
        else:
            return "\ufffd"
        return ""

    def push(self, token):
        """As the solution."""
        return "".join(map(self._byte, self.token_bytes[token]))

    def flush(self):
        """As the solution."""
        text = "\ufffd" if self.need else ""
        self._start()
        return text
