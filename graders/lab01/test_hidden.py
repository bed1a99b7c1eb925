"""Hidden tests of lab 01."""

from __future__ import annotations

import itertools
import os

import pytest
import torch

from graders.lab01 import reference
from graders.lab01.checkpoints import greedy, write_llama


def randn(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.task("rms_norm")
@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (2, 3, 64)])
def test_rms_norm_reference(student, check, rng_seed, shape):
    """RMSNorm divides by sqrt(mean of squares + eps), then scales by channel."""
    x, w = randn(rng_seed, *shape) + 1, randn(rng_seed + 1, shape[-1])
    for eps in (1e-6, 0.5):
        out = student.norm.rms_norm(x, w, eps)
        check.close(out, reference.rms_norm(x, w, eps).float(), given={"x": x, "eps": eps})


@pytest.mark.task("rms_norm")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm_wide(student, check, rng_seed, dtype):
    """Squares are accumulated in fp32: large fp16 values do not overflow; the dtype is kept."""
    x = (randn(rng_seed, 4, 256) * 1000).to(dtype)
    w = randn(rng_seed + 1, 256).to(dtype)
    out = student.norm.rms_norm(x, w, 1e-5)
    check.close(out, reference.rms_norm(x, w, 1e-5).to(dtype), given={"dtype": str(dtype)})


@pytest.mark.task("rope")
@pytest.mark.parametrize("dim", [2, 8, 64])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_rope_reference(student, check, rng_seed, dim, theta):
    """Channel i turns with channel i + D/2 by the angle of its own position, in any order."""
    x = randn(rng_seed, 2, 3, 4, dim)
    positions = torch.tensor([[0, 1, 2, 3], [90, 7, 7, 0]])
    cos, sin = student.rope.rope_tables(positions, dim, theta)
    check.equal(list(cos.shape), [2, 4, dim], given={"positions": positions})
    out = student.rope.apply_rope(x, cos, sin)
    expected = reference.rope(x, positions, theta).float()
    check.close(out, expected, rtol=1e-4, atol=1e-4, given={"positions": positions, "x": x})


@pytest.mark.task("rope")
def test_rope_flat_positions_and_dtype(student, check, rng_seed):
    """Tables of one shared row of positions work too, and the input's dtype is kept."""
    x = randn(rng_seed, 2, 2, 3, 8).bfloat16()
    positions = torch.tensor([5, 6, 7])
    cos, sin = student.rope.rope_tables(positions, 8)
    out = student.rope.apply_rope(x, cos, sin)
    check.close(out, reference.rope(x, positions.expand(2, 3), 1e4).bfloat16(), given={"x": x})


@pytest.mark.task("rope")
def test_rope_odd(student, check):
    """An odd head_dim is refused."""
    with check.raises(ValueError):
        student.rope.rope_tables(torch.tensor([0]), 3)


@pytest.mark.task("attention", weight=2)
@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (4, 2), (6, 2)])
def test_attend_reference(student, check, rng_seed, heads):
    """Query head h reads KV head h // (H / K), and sees slots up to its position only."""
    q = randn(rng_seed, 2, heads[0], 3, 8)
    k, v = randn(rng_seed + 1, 2, heads[1], 7, 8), randn(rng_seed + 2, 2, heads[1], 7, 8)
    positions = torch.tensor([[0, 1, 2], [4, 6, 1]])
    out = student.attention.attend(q, k, v, positions)
    expected = reference.attend(q, k, v, positions).float()
    check.close(out, expected, rtol=1e-4, atol=1e-5, given={"positions": positions})


@pytest.mark.task("attention")
def test_attend_masked_rows(student, check, rng_seed):
    """A query at position -1 sees nothing and yields zeros, never NaN."""
    q, k, v = (randn(rng_seed + i, 1, 2, 3, 4) for i in range(3))
    positions = torch.tensor([[0, -1, 2]])
    expected = reference.attend(q, k, v, positions).float()
    out = student.attention.attend(q, k, v, positions)
    check.close(out, expected, rtol=1e-4, atol=1e-5, given={"positions": positions})


@pytest.mark.task("attention")
def test_attend_large_scores(student, check):
    """Scores beyond the range of fp16 do not overflow."""
    q = torch.full((1, 1, 1, 4), 300.0).half()
    k, v = torch.stack((q[0, 0], -q[0, 0]), 2).view(1, 1, 1, 8), torch.ones(1, 1, 2, 4).half()
    k = torch.cat((q, -q), 2)
    out = student.attention.attend(q, k, v, torch.tensor([[1]]))
    check.close(out, torch.ones(1, 1, 1, 4).half(), given={"q": q})


@pytest.mark.task("attention")
def test_cache(student, check, rng_seed):
    """Each token is written to its own slot and layer; padding writes nothing."""
    cache = student.attention.KVCache(2, 2, 3, 5, 4)
    k, v = randn(rng_seed, 2, 3, 2, 4), randn(rng_seed + 1, 2, 3, 2, 4)
    positions = torch.tensor([[3, 1], [0, -1]])
    keys, values = cache.update(1, k, v, positions)
    for got, new in ((keys, k), (values, v)):
        expected = torch.zeros(2, 3, 5, 4)
        expected[0, :, 3], expected[0, :, 1], expected[1, :, 0] = (
            new[0, :, 0],
            new[0, :, 1],
            new[1, :, 0],
        )
        check.equal(got, expected, given={"positions": positions})
    check.equal(cache.keys[0], torch.zeros(2, 3, 5, 4), given={"layer": 0})


@pytest.mark.task("attention")
def test_cache_refuses(student, check):
    """A position beyond the cache is refused, and nothing is written."""
    cache = student.attention.KVCache(1, 1, 1, 2, 2)
    new = torch.ones(1, 1, 2, 2)
    with check.raises(ValueError):
        cache.update(0, new, new, torch.tensor([[1, 2]]))
    check.equal(cache.keys, torch.zeros(1, 1, 1, 2, 2), given={"positions": [1, 2]})


@pytest.mark.task("forward", weight=2)
@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 6}, {"attention_bias": True}],
    ids=["gqa", "tied", "mha", "bias"],
)
def test_forward_transformers(student, check, given_dir, rng_seed, changes):
    """Logits agree with transformers on a random checkpoint."""
    oracle = write_llama(given_dir, rng_seed % 1000, **changes)
    tokens = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(rng_seed))
    with torch.no_grad():
        expected = oracle(tokens).logits
    out = student.model.load_model(str(given_dir)).forward(tokens)
    check.close(out, expected, rtol=1e-3, atol=1e-3, given={"tokens": tokens, "config": changes})


@pytest.mark.task("forward")
def test_forward_any_split(student, check, given_dir, rng_seed):
    """Cached equals uncached at every position, for every split of the prompt."""
    write_llama(given_dir, rng_seed % 1000)
    model = student.model.load_model(str(given_dir))
    tokens = torch.randint(61, (2, 5), generator=torch.Generator().manual_seed(rng_seed))
    whole = model.forward(tokens)
    for cuts in itertools.product([False, True], repeat=4):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), 5]
        cache = model.new_cache(2, 8)
        for a, b in itertools.pairwise(edges):
            positions = torch.arange(a, b).expand(2, b - a).contiguous()
            part = model.forward(tokens[:, a:b].contiguous(), positions, cache)
            check.close(
                part, whole[:, a:b].contiguous(), rtol=1e-3, atol=1e-4, given={"edges": edges}
            )


LOGITS = [0.3, 2.0, -1.5, 1.1, -0.2, 0.9, -3.0]


@pytest.mark.task("sampling", weight=2)
@pytest.mark.parametrize(
    "settings",
    [
        {}, {"temperature": 0.0}, {"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 1},
        {"top_k": 3}, {"top_k": 100}, {"top_p": 0.3}, {"top_p": 0.6}, {"top_p": 0.95},
        {"min_p": 0.2}, {"min_p": 1.0}, {"temperature": 3.0, "min_p": 0.5},
        {"top_k": 3, "top_p": 0.7}, {"top_p": 0.9, "min_p": 0.3, "temperature": 1.7},
    ],
    ids=str,
)  # fmt: skip
def test_distribution(student, check, settings):
    """The distribution is exactly the one the order of the steps prescribes."""
    logits = torch.tensor([LOGITS, LOGITS[::-1]])
    out = student.sampling.probabilities(logits, **settings)
    expected = [reference.probabilities(row, **settings) for row in logits.tolist()]
    check.close(out, torch.tensor(expected), rtol=1e-4, atol=1e-6, given=settings)


@pytest.mark.task("sampling")
@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_penalty(student, check, temperature):
    """Each distinct earlier token is pushed down once, whatever its sign, row by row."""
    logits, previous = torch.tensor([LOGITS, LOGITS]), [[1, 2, 1, 1], []]
    out = student.sampling.probabilities(
        logits, temperature=temperature, repetition_penalty=1.8, previous=previous
    )
    expected = [
        reference.probabilities(LOGITS, temperature, penalty=1.8, previous=p) for p in previous
    ]
    check.close(out, torch.tensor(expected), rtol=1e-4, atol=1e-6, given={"previous": previous})


@pytest.mark.task("sampling")
@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.5}], ids=str)
def test_ties(student, check, settings):
    """Of equal logits the lower token id counts as likelier."""
    logits = torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.5]])
    out = student.sampling.probabilities(logits, **settings)
    expected = torch.tensor([reference.probabilities(logits[0].tolist(), **settings)])
    check.close(out, expected, rtol=1e-4, atol=1e-6, given=settings)


@pytest.mark.task("sampling")
@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_p": 0.0}, {"min_p": 2.0}], ids=str)
def test_sampling_refuses(student, check, bad):
    """Parameters out of range are refused."""
    with check.raises(ValueError):
        student.sampling.probabilities(torch.zeros(1, 3), **bad)


@pytest.mark.task("sampling")
def test_sample(student, check):
    """Draws follow the distribution, never hit probability 0, and repeat with the seed."""
    p = torch.tensor([0.0, 0.5, 0.2, 0.3])
    rows = p.expand(40000, 4).contiguous()
    out = student.sampling.sample(rows, torch.Generator().manual_seed(11))
    again = student.sampling.sample(rows, torch.Generator().manual_seed(11))
    check.equal(again, out, given={"seed": 11})
    check.equal(list(out.shape), [40000], given={"rows": 40000})
    share = torch.bincount(out, minlength=4)[:4] / 40000
    check.close(share, p, rtol=0, atol=0.013, given={"p": p})
    check.true(int((out == 0).sum()) == 0, "a token of probability 0 is never drawn")


PROMPTS = [[5, 3, 8, 1, 9, 2], [7], [4, 4, 60], [11, 0]]


@pytest.mark.task("generate", weight=2)
@pytest.mark.parametrize("count", [1, 4])
def test_generate_greedy(student, check, given_dir, rng_seed, count):
    """Greedy tokens of a ragged batch are those transformers makes for each prompt alone."""
    oracle = write_llama(given_dir, rng_seed % 1000)
    model = student.model.load_model(str(given_dir))
    expected = [greedy(oracle, prompt, 6) for prompt in PROMPTS[:count]]
    out = student.generate.generate(model, PROMPTS[:count], 6)
    check.equal(out, expected, given={"prompts": PROMPTS[:count]})


@pytest.mark.task("generate", weight=2)
def test_generate_stops(student, check, given_dir, rng_seed):
    """A sequence ends with its own first stop token or limit; the others go on unchanged."""
    oracle = write_llama(given_dir, rng_seed % 1000)
    model = student.model.load_model(str(given_dir))
    free = [greedy(oracle, prompt, 6) for prompt in PROMPTS]
    limits, stops = [6, 0, 5, 1], [free[0][2]]
    expected = []
    for row, limit in zip(free, limits, strict=True):
        row = row[:limit]
        expected.append(row[: row.index(stops[0]) + 1] if stops[0] in row else row)
    out = student.generate.generate(model, PROMPTS, limits, stops)
    check.equal(out, expected, given={"limits": limits, "stop_tokens": stops})


@pytest.mark.task("generate")
def test_generate_penalty(student, check, given_dir, rng_seed):
    """The repetition penalty looks at the prompt and at what was generated."""
    oracle = write_llama(given_dir, rng_seed % 1000)
    model = student.model.load_model(str(given_dir))
    tokens = list(PROMPTS[0])
    for _ in range(6):
        with torch.no_grad():
            row = oracle(torch.tensor([tokens])).logits[0, -1].tolist()
        p = reference.probabilities(row, 0.0, penalty=5.0, previous=tokens)
        tokens.append(p.index(1.0))
    out = student.generate.generate(model, PROMPTS[:1], 6, repetition_penalty=5.0)
    check.equal(out, [tokens[len(PROMPTS[0]) :]], given={"prompt": PROMPTS[0]})


@pytest.mark.task("generate")
@pytest.mark.parametrize("prompts", [[], [[1], []]], ids=str)
def test_generate_refuses(student, check, prompts):
    """No prompts, or an empty one, are refused."""
    with check.raises(ValueError):
        student.generate.pad_batch(prompts)


TEXT = "aé€😀 \u0301z".encode()
BROKEN = b"a\xff\xe2\x82(\xf0\x9f\x98\xc3\xa9\x80\xed\xa0\x80\xf0\x9f"


@pytest.mark.task("detokenize", weight=2)
@pytest.mark.parametrize("data", [TEXT, BROKEN], ids=["valid", "broken"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_detokenize_stream(student, check, data, size):
    """Every character comes with the push that completes it; joined, it is the decoded whole."""
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    stream = student.detokenize.IncrementalDetokenizer(pieces)
    got, shown = "", b""
    for index, piece in enumerate(pieces):
        new = stream.push(index)
        check.true(isinstance(new, str), "push returns text", got=str(new))
        got, shown = got + new, shown + piece
        # Certain is what any continuation leaves as it is.
        ends = [
            (shown + tail).decode(errors="replace") for tail in (b"a", b"\x80" * 3, b"\xbf" * 3)
        ]
        ends.append((shown + b"\x98\x80").decode(errors="replace"))
        certain = os.path.commonprefix([e[: len(shown.decode(errors="ignore")) + 20] for e in ends])
        check.true(certain.startswith(got), "nothing uncertain is shown", expected=certain, got=got)
        try:
            check.equal(got, shown.decode(), given={"bytes": list(shown)})
        except UnicodeDecodeError:
            pass
    got += stream.flush()
    check.equal(got, data.decode(errors="replace"), given={"bytes": list(data), "size": size})
    check.equal(stream.flush(), "", given={"flush": "twice"})


@pytest.mark.task("detokenize")
def test_piece_bytes(student, check):
    """Pieces of byte-level BPE map back to their bytes; added tokens read as written."""
    cases = [
        ("Ġthe", b" the"),
        ("Ã©", b"\xc3\xa9"),
        ("Ċ", b"\n"),
        ("<|终|>", "<|终|>".encode()),
        ("ÿ", b"\xff"),
    ]
    for piece, expected in cases:
        check.equal(student.detokenize.piece_bytes(piece), expected, given={"piece": piece})


def stop_reference(text: str, stops: list[str]) -> tuple[str, bool]:
    """What is shown of a whole text, by trying every end."""
    for end in range(len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            return text[: end - max(map(len, hits))], True
    held = max((n for s in stops for n in range(len(s)) if text.endswith(s[:n])), default=0)
    return text[: len(text) - held], False


@pytest.mark.task("stopping", weight=2)
@pytest.mark.parametrize(
    "stops", [[], ["b"], ["ab"], ["aab"], ["abab", "ba"], ["bc", "abcd"], ["c", "abc"]], ids=str
)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_stops(student, check, stops, size):
    """What has been shown depends on the text so far, not on how it was cut."""
    for text in ("aaab", "ababc", "xabcd", "cabab", "aacaaa"):
        matcher = student.stopping.StopStringMatcher(stops)
        shown, stopped = "", False
        for start in range(0, len(text), size):
            new, stopped = matcher.push(text[start : start + size])
            shown += new
            expected = stop_reference(text[: start + size], stops)
            given = {"stops": stops, "text": text[: start + size], "size": size}
            check.equal([shown, stopped], list(expected), given=given)
        rest = matcher.finish()
        whole = shown if stopped else text
        check.equal(shown + rest, whole, given={"stops": stops, "text": text})


@pytest.mark.task("stopping")
def test_stops_refuse_and_swallow(student, check):
    """An empty stop string is refused; after a stop everything is swallowed."""
    with check.raises(ValueError):
        student.stopping.StopStringMatcher(["a", ""])
    matcher = student.stopping.StopStringMatcher(["a"])
    matcher.push("xa")
    check.equal(list(matcher.push("yz")), ["", True], given={"stops": ["a"]})
