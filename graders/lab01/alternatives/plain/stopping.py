"""Stop strings, one character at a time."""


class StopStringMatcher:
    """As the solution."""

    def __init__(self, stops):
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        self.stops, self.held, self.stopped = list(stops), "", False

    def push(self, text):
        """Take in text."""
        shown = ""
        for character in text:
            if self.stopped:
                break
            self.held += character
            ended = [s for s in self.stops if self.held.endswith(s)]
            if ended:
                shown += self.held[: len(self.held) - len(max(ended, key=len))]
                self.held, self.stopped = "", True
                break
            while self.held and not any(s.startswith(self.held) for s in self.stops):
                shown, self.held = shown + self.held[0], self.held[1:]
        return shown, self.stopped

    def finish(self):
        """End of the stream."""
        held, self.held = self.held, ""
        return held
