"""Public tests of lab 01: small, readable, inline references."""

from __future__ import annotations

import math

import pytest
import torch


@pytest.mark.task("rms_norm")
def test_rms_norm_by_hand(student, check):
    """[3, 4] has root mean square sqrt(12.5)."""
    x = torch.tensor([[3.0, 4.0]])
    out = student.norm.rms_norm(x, torch.tensor([1.0, 2.0]), 0.0)
    check.close(out, torch.tensor([[3.0, 8.0]]) / math.sqrt(12.5), given={"x": x})


@pytest.mark.task("rope")
def test_rope_quarter_turn(student, check):
    """Position p turns the first pair, channels 0 and D/2, by p radians."""
    cos, sin = student.rope.rope_tables(torch.tensor([2]), 4)
    x = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    expected = torch.tensor([[[[math.cos(2), 0.0, math.sin(2), 0.0]]]])
    check.close(student.rope.apply_rope(x, cos, sin), expected, given={"position": 2, "x": x})


@pytest.mark.task("attention")
def test_attend_first_position(student, check):
    """A query at position 0 sees slot 0 only, so it returns that slot's value."""
    q, k = torch.ones(1, 2, 1, 2), torch.ones(1, 1, 3, 2)
    v = torch.arange(6.0).view(1, 1, 3, 2)
    out = student.attention.attend(q, k, v, torch.tensor([[0]]))
    check.close(out, torch.tensor([0.0, 1.0]).expand(1, 2, 1, 2).contiguous(), given={"v": v})


@pytest.mark.task("forward")
def test_forward_cached_equals_uncached(student, check, given_dir):
    """Splitting the tokens over two cached calls changes no logit."""
    from labs.common.tiny import tiny_llama

    model = student.model.load_model(str(tiny_llama(given_dir)))
    tokens = torch.tensor([[5, 3, 8, 1]])
    whole = model.forward(tokens)
    cache = model.new_cache(1, 4)
    model.forward(tokens[:, :3].contiguous(), torch.tensor([[0, 1, 2]]), cache)
    last = model.forward(tokens[:, 3:].contiguous(), torch.tensor([[3]]), cache)
    check.close(last, whole[:, 3:], rtol=1e-4, atol=1e-5, given={"tokens": tokens})


@pytest.mark.task("sampling")
def test_top_k(student, check):
    """Top-k keeps the k likeliest tokens in their proportion."""
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    out = student.sampling.probabilities(logits, 1.0, 2)
    check.close(out, torch.tensor([[0.625, 0.375, 0.0]]), given={"top_k": 2})


@pytest.mark.task("generate")
def test_pad_batch(student, check):
    """Padding stands on the right, at position -1."""
    tokens, positions = student.generate.pad_batch([[7, 8], [9]])
    check.equal(tokens, torch.tensor([[7, 8], [9, 0]]), given={"prompts": [[7, 8], [9]]})
    check.equal(positions, torch.tensor([[0, 1], [0, -1]]), given={"prompts": [[7, 8], [9]]})


@pytest.mark.task("detokenize")
def test_split_character(student, check):
    """A character cut in two comes out whole, with its last byte."""
    stream = student.detokenize.IncrementalDetokenizer([b"\xc3", b"\xa9!"])
    check.equal([stream.push(0), stream.push(1)], ["", "é!"], given={"bytes": "C3 | A9 21"})


@pytest.mark.task("stopping")
def test_straddling_stop(student, check):
    """A stop string cut in two is still met, and none of it is shown."""
    matcher = student.stopping.StopStringMatcher(["END"])
    got = [list(matcher.push(t)) for t in ("abE", "ND x")]
    check.equal(got, [["ab", False], ["", True]], given={"stops": ["END"]})
