"""Detokenization by decoding everything held, with and without the last bytes."""


def piece_bytes(piece):
    """As the solution, from the other direction."""
    plain = [b for b in range(256) if 33 <= b <= 126 or (161 <= b and b != 173)]
    rest = iter(b for b in range(256) if b not in plain)
    table = {256 + i: b for i, b in enumerate(rest)} | {b: b for b in plain}
    try:
        return bytes(table[ord(c)] for c in piece)
    except KeyError:
        return piece.encode()


class IncrementalDetokenizer:
    """As the solution."""

    def __init__(self, token_bytes):
        self.token_bytes, self.held = token_bytes, b""

    def push(self, token):
        """Take in one token."""
        data = self.held + self.token_bytes[token]
        # An unfinished tail is one that Python's decoder reports as running into the end.
        for cut in range(max(0, len(data) - 3), len(data)):
            try:
                data[cut:].decode()
            except UnicodeDecodeError as error:
                if error.reason == "unexpected end of data" and error.start == 0:
                    self.held = data[cut:]
                    return data[:cut].decode(errors="replace")
        self.held = b""
        return data.decode(errors="replace")

    def flush(self):
        """End of the stream."""
        held, self.held = self.held, b""
        return held.decode(errors="replace")
