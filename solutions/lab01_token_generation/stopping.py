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
        ### BEGIN SOLUTION
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        self.stops = list(stops)
        self.stopped = False
        self._held = ""
        ### END SOLUTION

    def push(self, text: str) -> tuple[str, bool]:
        """Take in text; return what may be shown now, and whether a stop string was met.

        After a stop, further text is swallowed: ``("", True)``.
        """
        ### BEGIN SOLUTION
        if self.stopped:
            return "", True
        text = self._held + text
        self._held = ""
        found = [(text.find(stop), stop) for stop in self.stops if stop in text]
        matches = [(start + len(stop), start) for start, stop in found]
        if matches:
            self.stopped = True
            return text[: min(matches)[1]], True  # smallest end, then smallest start: the longest
        # Hold back the longest tail that begins a stop string.
        for start in range(max(0, len(text) - max(map(len, self.stops), default=0)), len(text)):
            if any(stop.startswith(text[start:]) for stop in self.stops):
                self._held = text[start:]
                return text[:start], False
        return text, False
        ### END SOLUTION

    def finish(self) -> str:
        """End of the stream: return the text still held back (none after a stop)."""
        ### BEGIN SOLUTION
        held, self._held = self._held, ""
        return held
        ### END SOLUTION
