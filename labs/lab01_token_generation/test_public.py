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


@pytest.mark.task("rms_norm")
def test_rms_norm_half(student, check):
    """300 squared overflows fp16; the norm does not, and its result is fp16 again."""
    x = torch.tensor([[300.0, -300.0]]).half()
    out = student.norm.rms_norm(x, torch.ones(2).half(), 0.0)
    check.close(out, torch.tensor([[1.0, -1.0]]).half(), given={"x": x})


@pytest.mark.task("rope")
def test_rope_quarter_turn(student, check):
    """Position p turns the first pair, channels 0 and D/2, by p radians."""
    cos, sin = student.rope.rope_tables(torch.tensor([2]), 4)
    x = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    expected = torch.tensor([[[[math.cos(2), 0.0, math.sin(2), 0.0]]]])
    check.close(student.rope.apply_rope(x, cos, sin), expected, given={"position": 2, "x": x})


@pytest.mark.task("rope")
def test_rope_distance(student, check):
    """Scores depend on the distance of two positions, not on where they are."""
    q, k = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), torch.tensor([[[[0.5, -1.0, 2.0, 0.0]]]])
    scores = []
    for start in (0, 7, 100):  # each row of a batch has its own positions: tables are [B, T, D]
        q_cos, q_sin = student.rope.rope_tables(torch.tensor([[start + 3]]), 4)
        k_cos, k_sin = student.rope.rope_tables(torch.tensor([[start]]), 4)
        q_turned = check.tensor(student.rope.apply_rope(q, q_cos, q_sin), shape=q.shape)
        k_turned = check.tensor(student.rope.apply_rope(k, k_cos, k_sin), shape=k.shape)
        scores.append(float((q_turned * k_turned).sum()))
    for start, score in zip((0, 7, 100), scores, strict=True):
        check.number(score, -8.2443, abs=1e-3, given={"positions": [start + 3, start]})


@pytest.mark.task("attention")
def test_attend_first_position(student, check):
    """A query at position 0 sees slot 0 only, so it returns that slot's value."""
    q, k = torch.ones(1, 2, 1, 2), torch.ones(1, 1, 3, 2)
    v = torch.arange(6.0).view(1, 1, 3, 2)
    out = student.attention.attend(q, k, v, torch.tensor([[0]]))
    check.close(out, torch.tensor([0.0, 1.0]).expand(1, 2, 1, 2).contiguous(), given={"v": v})


@pytest.mark.task("attention")
def test_attend_by_hand(student, check):
    """Scores 0 and ln 3 weigh the values 10 and 20 by 1/4 and 3/4; padding yields zero."""
    q = torch.ones(1, 1, 3, 1)
    k, v = torch.tensor([[[[0.0], [math.log(3)]]]]), torch.tensor([[[[10.0], [20.0]]]])
    positions = torch.tensor([[0, 1, -1]])
    out = student.attention.attend(q, k, v, positions)
    expected = torch.tensor([[[[10.0], [17.5], [0.0]]]])
    check.close(out, expected, given={"k": k, "v": v, "positions": positions})


@pytest.mark.task("attention")
def test_cache_slots(student, check):
    """Slot s holds position s; padding, at position -1, writes nothing."""
    cache = student.attention.KVCache(1, 2, 1, 3, 1)
    new = torch.tensor([5.0, 3.0, 7.0, 9.0]).view(2, 1, 2, 1)
    positions = torch.tensor([[1, 0], [0, -1]])
    keys, values = cache.update(0, new, -new, positions)
    expected = torch.tensor([3.0, 5.0, 0.0, 7.0, 0.0, 0.0]).view(2, 1, 3, 1)
    check.equal(keys, expected, given={"k": new, "positions": positions})
    check.equal(values + 0.0, -expected + 0.0, given={"v": -new, "positions": positions})


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


@pytest.mark.task("sampling")
def test_all_knobs(student, check):
    """The handout's worked example: every step in its order."""
    settings = {"temperature": 0.5, "top_k": 4, "top_p": 0.8, "min_p": 0.2}
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0]])
    out = student.sampling.probabilities(
        logits, **settings, repetition_penalty=2.0, previous=[[0, 4, 0]]
    )
    expected = torch.tensor([[0.42232, 0.42232, 0.15536, 0.0, 0.0]])
    check.close(out, expected, rtol=0, atol=1e-4, given={**settings, "repetition_penalty": 2.0})


@pytest.mark.task("sampling")
def test_sample_certain(student, check):
    """A row with one possible token yields that token."""
    rows = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    out = student.sampling.sample(rows, torch.Generator().manual_seed(0))
    check.equal(out, torch.tensor([1, 2]), given={"p": rows})


@pytest.mark.task("generate")
def test_pad_batch(student, check):
    """Padding stands on the right, at position -1."""
    tokens, positions = student.generate.pad_batch([[7, 8], [9]])
    check.equal(tokens, torch.tensor([[7, 8], [9, 0]]), given={"prompts": [[7, 8], [9]]})
    check.equal(positions, torch.tensor([[0, 1], [0, -1]]), given={"prompts": [[7, 8], [9]]})


@pytest.mark.task("generate")
def test_neighbours(student, check, given_dir):
    """Greedy tokens of a ragged batch are those of each prompt alone; stops are each row's own."""
    from labs.common.tiny import tiny_llama

    model = student.model.load_model(str(tiny_llama(given_dir)))
    prompts = [[5, 3, 8, 1], [7, 9]]
    alone = [student.generate.generate(model, [prompt], 4)[0] for prompt in prompts]
    check.equal(student.generate.generate(model, prompts, 4), alone, given={"prompts": prompts})
    stop = alone[0][1]
    ends = [row.index(stop) + 1 if stop in row else 4 for row in alone]
    expected = [row[:end] for row, end in zip(alone, ends, strict=True)]
    out = student.generate.generate(model, prompts, 4, [stop])
    check.equal(out, expected, given={"prompts": prompts, "stop_tokens": [stop]})


@pytest.mark.task("detokenize")
def test_split_character(student, check):
    """A character cut in two comes out whole, with its last byte."""
    stream = student.detokenize.IncrementalDetokenizer([b"\xc3", b"\xa9!"])
    check.equal([stream.push(0), stream.push(1)], ["", "é!"], given={"bytes": "C3 | A9 21"})


@pytest.mark.task("detokenize")
def test_bad_bytes(student, check):
    """Bytes that can become no character are U+FFFD at once; an unfinished one is so at the end."""
    stream = student.detokenize.IncrementalDetokenizer([b"a\xff", b"b\xe2\x82"])
    got = [stream.push(0), stream.push(1), stream.flush()]
    check.equal(got, ["a\ufffd", "b", "\ufffd"], given={"bytes": "61 FF | 62 E2 82"})


@pytest.mark.task("detokenize")
def test_pieces(student, check):
    """Pieces of byte-level BPE map back to bytes; added tokens read as written."""
    for piece, expected in (("Ġthe", b" the"), ("Ã©", "é".encode()), ("<|终|>", "<|终|>".encode())):
        check.equal(student.detokenize.piece_bytes(piece), expected, given={"piece": piece})


@pytest.mark.task("stopping")
def test_straddling_stop(student, check):
    """A stop string cut in two is still met, and none of it is shown."""
    matcher = student.stopping.StopStringMatcher(["END"])
    got = [list(matcher.push(t)) for t in ("abE", "ND x")]
    check.equal(got, [["ab", False], ["", True]], given={"stops": ["END"]})


@pytest.mark.task("stopping")
def test_held_text(student, check):
    """Only text that may begin a stop is held back; at the end it was text after all."""
    matcher = student.stopping.StopStringMatcher(["aab"])
    got = [matcher.push("xaa")[0], matcher.push("a")[0], matcher.finish()]
    check.equal(got, ["x", "a", "aa"], given={"stops": ["aab"], "pieces": ["xaa", "a"]})
