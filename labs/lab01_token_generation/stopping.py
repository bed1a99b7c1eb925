"""Stop strings that may straddle tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopStringMatcher:
    """Passes text through until a stop string is complete.

    The result does not depend on how the text is cut into pieces: everything before the stop string
    that is completed first (of several completed by the same character, the longest). Text that may
    still turn out to begin a stop string is held back; all other text is passed on at once.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Watch for any of ``stops``.

        Raises:
            ValueError: one of them is empty.
        """
        raise NotImplementedError("StopStringMatcher.__init__: your code here")

    def push(self, text: str) -> tuple[str, bool]:
        """Take in text; return what may be shown now, and whether a stop string was met.

        After a stop, further text is swallowed: ``("", True)``.
        """
        raise NotImplementedError("StopStringMatcher.push: your code here")

    def finish(self) -> str:
        """End of the stream: return the text still held back (none after a stop)."""
        raise NotImplementedError("StopStringMatcher.finish: your code here")
