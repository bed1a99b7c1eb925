"""Greedy decode through the plain forward: right, and as slow as it."""

import torch


class FastDecoder:
    """As the solution, without static buffers or a graph."""

    def __init__(self, model, batch, max_len):
        self.model, self.batch, self.max_len = model, batch, max_len
        self.length, self.last, self.cache = 0, None, None

    @torch.no_grad()
    def prefill(self, tokens_BT):
        """Start afresh."""
        batch, length = tokens_BT.shape
        if batch != self.batch or length > self.max_len:
            raise ValueError("the prompts do not fit")
        self.cache, self.length = self.model.new_cache(batch, self.max_len), 0
        return self._step(tokens_BT.to(self.model.device))

    def _step(self, tokens):
        count = tokens.shape[1]
        positions = torch.arange(self.length, self.length + count, device=tokens.device)
        logits = self.model.forward(tokens, positions.expand(self.batch, -1), self.cache)
        self.length += count
        self.last = logits[:, -1].argmax(-1)
        return self.last

    @torch.no_grad()
    def decode(self, steps):
        """More tokens."""
        if self.length + steps > self.max_len:
            raise ValueError("the cache is too short")
        made = [self._step(self.last[:, None]) for _ in range(steps)]
        if not made:
            return torch.zeros(self.batch, 0, dtype=torch.long, device=self.model.device)
        return torch.stack(made, 1)
