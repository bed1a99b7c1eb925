"""Stop strings by an Aho-Corasick automaton: one state, no text searched twice."""

from collections import deque


class StopStringMatcher:
    """The state is the longest suffix of the text that begins a stop; that suffix is held back."""

    def __init__(self, stops):
        if any(stop == "" for stop in stops):
            raise ValueError("empty stop string")
        self.next, self.fail, self.depth, self.found = [{}], [0], [0], [0]
        for stop in stops:
            state = 0
            for character in stop:
                if character not in self.next[state]:
                    self.next[state][character] = len(self.next)
                    self.next.append({})
                    self.fail.append(0)
                    self.depth.append(self.depth[state] + 1)
                    self.found.append(0)
                state = self.next[state][character]
            self.found[state] = len(stop)
        queue = deque(self.next[0].values())
        while queue:
            state = queue.popleft()
            self.found[state] = self.found[state] or self.found[self.fail[state]]
            for character, child in self.next[state].items():
                self.fail[child] = self._go(self.fail[state], character)
                queue.append(child)
        self.state, self.held, self.stopped = 0, "", False

    def _go(self, state, character):
        while state and character not in self.next[state]:
            state = self.fail[state]
        return self.next[state].get(character, 0)

    def push(self, text):
        """As the solution."""
        if self.stopped:
            return "", True
        whole, start = self.held + text, len(self.held)
        for end in range(start + 1, len(whole) + 1):
            self.state = self._go(self.state, whole[end - 1])
            if self.found[self.state]:
                self.held, self.stopped = "", True
                return whole[: end - self.found[self.state]], True
        cut = len(whole) - self.depth[self.state]
        self.held = whole[cut:]
        return whole[:cut], False

    def finish(self):
        """As the solution."""
        held, self.held, self.state = self.held, "", 0
        return held
