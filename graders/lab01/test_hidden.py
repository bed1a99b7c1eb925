"""Hidden tests of lab 01."""

from __future__ import annotations

import functools
import itertools
import math
import os
import random

import pytest
import torch

from graders.lab01 import reference
from graders.lab01.checkpoints import greedy, random_llama, write_llama


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
@pytest.mark.parametrize("scale", [1000.0, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm_wide(student, check, rng_seed, dtype, scale):
    """Squares are accumulated in fp32: no overflow, no underflow; the dtype is kept."""
    x = (randn(rng_seed, 4, 256) * scale).to(dtype)
    w = randn(rng_seed + 1, 256).to(dtype)
    out = student.norm.rms_norm(x, w, 1e-8)
    given = {"dtype": str(dtype), "size of x": scale, "eps": 1e-8}
    check.close(out, reference.rms_norm(x, w, 1e-8).to(dtype), given=given)


@pytest.mark.task("rms_norm")
def test_rms_norm_fp64(student, check, rng_seed):
    """fp64 inputs are normalised in fp64."""
    x, w = randn(rng_seed, 3, 7).double(), randn(rng_seed + 1, 7).double()
    out = student.norm.rms_norm(x, w, 1e-6)
    check.close(out, reference.rms_norm(x, w, 1e-6), dtype=torch.float64, given={"x": x})


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
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_rope_tables(student, check, dtype):
    """Tables are fp32 [..., T, D]; the second half repeats the first; any integer positions do."""
    positions = torch.tensor([3, 0, 3, 41], dtype=dtype)
    cos, sin = student.rope.rope_tables(positions, 6, 100.0)
    angle = positions[:, None].double() * 100.0 ** (-torch.arange(3).double() / 3)
    angle = torch.cat((angle, angle), -1)
    for got, expected in ((cos, angle.cos()), (sin, angle.sin())):
        check.close(got, expected.float(), rtol=0, atol=1e-4, given={"positions": positions})


@pytest.mark.task("rope")
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_rope_far(student, check, rng_seed, theta):
    """Far positions turn by their own angle, as exactly as fp32 can hold that angle."""
    positions = torch.tensor([[257, 2049, 4097, 4097, 131071], [8193, 5, 65537, 0, 4096]])
    x = randn(rng_seed, 2, 2, 5, 64)
    x = x / x.abs().max()
    cos, sin = student.rope.rope_tables(positions, 64, theta)
    out = check.tensor(student.rope.apply_rope(x, cos, sin), shape=x.shape, finite=False)
    expected = reference.rope(x, positions, theta).float()
    for b, t in itertools.product(range(2), range(5)):
        p = int(positions[b, t])
        # An fp32 angle is off by a few units in its last place: p * 2**-24 each.
        got, want = out[b, :, t].contiguous(), expected[b, :, t].contiguous()
        check.close(got, want, rtol=0, atol=p * 2**-21 + 1e-5, given={"position": p})


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
    given = {"H": heads[0], "K": heads[1], "positions": positions}
    check.close(out, expected, rtol=1e-4, atol=1e-5, given=given)


@pytest.mark.task("attention")
@pytest.mark.parametrize("positions", [[[0, -1, 2]], [[-1, -1, -1]]], ids=str)
def test_attend_masked_rows(student, check, rng_seed, positions):
    """A query at position -1 sees nothing and yields zeros, never NaN."""
    q, k, v = (randn(rng_seed + i, 1, 2, 3, 4) for i in range(3))
    positions = torch.tensor(positions)
    expected = reference.attend(q, k, v, positions).float()
    out = student.attention.attend(q, k, v, positions)
    check.close(out, expected, rtol=1e-4, atol=1e-5, given={"positions": positions})


@pytest.mark.task("attention")
def test_attend_unseen_slots(student, check, rng_seed):
    """Slots beyond a query's position do not count, whatever finite numbers stand in them."""
    q, k, v = (randn(rng_seed + i, 1, 2, 2, 4) for i in range(3))
    stale = torch.full((1, 2, 3, 4), 1e4)
    positions = torch.tensor([[0, 1]])
    out = student.attention.attend(q, torch.cat((k, stale), 2), torch.cat((v, stale), 2), positions)
    expected = reference.attend(q, k, v, positions).float()
    check.close(out, expected, rtol=1e-4, atol=1e-5, given={"positions": positions, "stale": 1e4})


@pytest.mark.task("attention")
def test_attend_large_scores(student, check):
    """Scores beyond the range of fp16 do not overflow; the dtype of the queries is kept."""
    q = torch.full((1, 1, 1, 4), 300.0).half()
    k = torch.cat((-q, q), 2)  # scores of -180,000 and 180,000
    v = torch.tensor([[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]]).half()
    out = student.attention.attend(q, k, v, torch.tensor([[1]]))
    check.close(out, v[:, :, 1:].contiguous(), given={"q": q, "k": k})
    # A masked slot stays masked even where the only visible score is as low as that.
    out = student.attention.attend(q, k, v, torch.tensor([[0]]))
    check.close(out, v[:, :, :1].contiguous(), given={"q": q, "k": k, "position": 0})


@pytest.mark.task("attention")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_attend_close_scores(student, check, dtype):
    """Scores keep fp32 precision: close ones are told apart, however large they are."""
    # Scores run from 4096 to 4097.75 in steps of 0.25; there fp16 knows every fourth number, bf16
    # every 32nd. The first channel carries the small part, the others the large one.
    q = torch.full((1, 1, 1, 16), 32.0).to(dtype)
    q[..., 0] = 1.0
    k = torch.full((1, 1, 8, 16), 512.0).to(dtype)
    k[..., 1:] *= torch.tensor([1.0] + [0.0] * 14).to(dtype)
    k[..., 0] = torch.arange(8.0).to(dtype)
    v = torch.eye(8, 16)[None, None].to(dtype)
    positions = torch.tensor([[7]])
    out = student.attention.attend(q, k, v, positions)
    check.close(out, reference.attend(q, k, v, positions).to(dtype), given={"q": q, "k": k})


@pytest.mark.task("attention")
def test_attend_refuses(student, check):
    """Query heads that do not divide over the KV heads are refused."""
    kv = torch.ones(1, 2, 1, 4)
    with check.raises(ValueError):
        student.attention.attend(torch.ones(1, 3, 1, 4), kv, kv, torch.tensor([[0]]))


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
    with check.raises(ValueError):
        cache.update(0, new, new, torch.tensor([[0, -2]]))
    check.equal(cache.keys, torch.zeros(1, 1, 1, 2, 2), given={"positions": "[1, 2], then [0, -2]"})


@pytest.mark.task("attention")
def test_cache_random_writes(student, check, rng_seed):
    """After any writes, each slot holds what was last written there, in every layer and row."""
    pick = random.Random(rng_seed)
    cache = student.attention.KVCache(2, 3, 2, 6, 4)
    model = torch.zeros(2, 2, 3, 2, 6, 4)  # keys and values, then as the cache
    for step in range(8):
        layer, length = pick.randrange(2), pick.randint(1, 4)
        rows = [pick.sample([-1, -1, -1, *range(6)], length) for _ in range(3)]
        new = randn(rng_seed + step, 2, 3, 2, length, 4)
        for row, t in itertools.product(range(3), range(length)):
            if rows[row][t] >= 0:
                model[:, layer, row, :, rows[row][t]] = new[:, row, :, t]
        got = cache.update(layer, new[0], new[1], torch.tensor(rows))
        given = {"write number": step + 1, "layer": layer, "positions": rows}
        for side in range(2):
            check.equal(got[side], model[side, layer].contiguous(), given=given)
    check.equal(cache.keys, model[0], given={"writes": 8})
    check.equal(cache.values, model[1], given={"writes": 8})


@pytest.mark.task("forward", weight=2)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 6},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
        {"num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 10},
    ],
    ids=["gqa", "tied", "mha", "bias", "mlp_bias", "theta", "mqa"],
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
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_forward_half(student, check, given_dir, rng_seed, dtype):
    """A half-precision checkpoint gives logits of its dtype, as exact as those of transformers."""
    oracle = write_llama(given_dir, rng_seed % 1000, dtype)
    tokens = torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(rng_seed))
    with torch.no_grad():
        usual = oracle(tokens).logits.double()
        exact = oracle.double()(tokens).logits
    out = student.model.load_model(str(given_dir)).forward(tokens)
    out = check.tensor(out, shape=exact.shape, dtype=dtype, given={"dtype": str(dtype)})
    # The error transformers itself makes in this dtype is the yardstick.
    error, allowed = (float((x.double() - exact).square().mean().sqrt()) for x in (out, usual))
    check.true(
        error <= 2 * allowed,
        f"the logits are off by {error:.3g} (root mean square), "
        f"those of transformers in {dtype} by {allowed:.3g}; twice that is allowed",
        given={"tokens": tokens, "dtype": str(dtype)},
    )


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


@pytest.mark.task("forward")
def test_forward_ragged(student, check, given_dir, rng_seed):
    """Each row of a padded batch gives what it gives alone, in one call or in pieces of its own."""
    write_llama(given_dir, rng_seed % 1000)
    model = student.model.load_model(str(given_dir))
    tokens = torch.randint(61, (3, 6), generator=torch.Generator().manual_seed(rng_seed))
    lengths = [6, 2, 4]
    alone = [model.forward(tokens[b : b + 1, :n].contiguous())[0] for b, n in enumerate(lengths)]
    positions = torch.tensor([[p if p < n else -1 for p in range(6)] for n in lengths])
    for cache in (None, model.new_cache(3, 6), model.new_cache(3, 11)):
        out = check.tensor(model.forward(tokens, positions, cache), shape=(3, 6, 61))
        for b, n in enumerate(lengths):
            given = {"length of this row": n, "positions": positions}
            check.close(out[b, :n].contiguous(), alone[b], rtol=1e-3, atol=1e-4, given=given)
    # Row 0 comes in pieces of 3, 2, 1; row 1 waits; row 2 has its padding in front.
    pieces = [
        [[0, 1, 2], [-1, -1, -1], [-1, 0, 1]],
        [[3, 4, -1], [0, -1, -1], [-1, -1, 2]],
        [[5, -1, -1], [1, -1, -1], [3, -1, -1]],
    ]
    cache = model.new_cache(3, 6)
    for piece in pieces:
        positions = torch.tensor(piece)
        out = model.forward(tokens.gather(1, positions.clamp(min=0)), positions, cache)
        out = check.tensor(out, shape=(3, 3, 61), given={"positions": piece})
        for b, t in itertools.product(range(3), range(3)):
            if piece[b][t] >= 0:
                want = alone[b][piece[b][t]]
                check.close(out[b, t], want, rtol=1e-3, atol=1e-4, given={"positions": piece})


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
    given = {**settings, "logits": logits}
    check.close(out, torch.tensor(expected), rtol=1e-4, atol=1e-6, given=given)


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
    given = {"penalty": 1.8, "previous": previous, "logits": logits}
    check.close(out, torch.tensor(expected), rtol=1e-4, atol=1e-6, given=given)


@pytest.mark.task("sampling")
@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.5}], ids=str)
def test_ties(student, check, settings):
    """Of equal logits the lower token id counts as likelier."""
    logits = torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.5]])
    out = student.sampling.probabilities(logits, **settings)
    expected = torch.tensor([reference.probabilities(logits[0].tolist(), **settings)])
    check.close(out, expected, rtol=1e-4, atol=1e-6, given={**settings, "logits": logits})


@pytest.mark.task("sampling")
def test_random_settings(student, check, rng_seed):
    """The distribution is exact for random logits, any settings together, any number of rows."""
    pick, done = random.Random(rng_seed), 0
    while done < 40:
        rows = [[pick.gauss(0, 2) for _ in range(pick.randint(1, 9))]]
        rows += [[pick.gauss(0, 2) for _ in rows[0]] for _ in range(pick.randrange(3))]
        settings = {
            "temperature": pick.choice([0.01, 0.3, 1.0, 1.5]),
            "top_k": pick.randrange(6),
            "top_p": pick.choice([0.2, 0.5, 0.8, 0.99, 1.0]),
            "min_p": pick.choice([0.0, 0.05, 0.4]),
        }
        penalty = pick.choice([1.0, 0.7, 1.3])
        previous = [[pick.randrange(len(row)) for _ in range(pick.randrange(5))] for row in rows]
        logits = torch.tensor(rows)
        pairs = list(zip(logits.tolist(), previous, strict=True))
        expected, nudged = (
            torch.tensor([
                reference.probabilities(
                    row, settings["temperature"], settings["top_k"],
                    min(settings["top_p"] * (1 + e), 1.0), settings["min_p"] * (1 + e), penalty, p,
                )
                for row, p in pairs
            ])
            for e in (1e-5, -1e-5)
        )  # fmt: skip
        if not torch.equal(expected > 0, nudged > 0):
            continue  # rounding alone would decide which tokens stay
        out = student.sampling.probabilities(
            logits, **settings, repetition_penalty=penalty, previous=previous
        )
        given = {**settings, "repetition_penalty": penalty, "previous": previous, "logits": logits}
        check.close(out, expected, rtol=1e-3, atol=1e-6, given=given)
        done += 1


@pytest.mark.task("sampling")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_logits(student, check, rng_seed, dtype):
    """Half-precision logits give an fp32 distribution, computed in fp32."""
    logits = (randn(rng_seed, 2, 50) * 3).to(dtype)
    out = student.sampling.probabilities(logits, 0.7)
    expected = [reference.probabilities(row, 0.7) for row in logits.tolist()]
    check.close(out, torch.tensor(expected), rtol=1e-4, atol=1e-6, given={"logits": logits})


@pytest.mark.task("sampling")
@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"min_p": 2.0},
        {"min_p": -0.1}, {"repetition_penalty": 0.0},
    ],
    ids=str,
)  # fmt: skip
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
    other = student.sampling.sample(rows, torch.Generator().manual_seed(12))
    check.true(not torch.equal(other, out), "another seed gave the very same 40,000 draws")
    # Neighbours are independent: pairs occur as often as the product of their chances.
    pairs = torch.bincount(out[::2] * 4 + out[1::2], minlength=16)[:16] / 20000
    check.close(pairs, (p[:, None] * p).reshape(-1), rtol=0, atol=0.018, given={"p": p})


@pytest.mark.task("sampling")
def test_sample_rows(student, check):
    """Each row is drawn from its own distribution."""
    rows = torch.eye(5)[[3, 0, 4, 4, 1]].contiguous()
    out = student.sampling.sample(rows, torch.Generator().manual_seed(3))
    check.equal(out, torch.tensor([3, 0, 4, 4, 1]), given={"p": rows})


PROMPTS = [[5, 3, 8, 1, 9, 2], [7], [4, 4, 60], [11, 0]]


@functools.lru_cache(maxsize=64)
def decisive(seed: int, steps: int = 6) -> tuple[int, list[list[int]]]:
    """The next seed whose greedy choices for PROMPTS do not hang on rounding, and these tokens."""
    for found in range(seed, seed + 100):
        oracle = random_llama(found)
        made = [greedy(oracle, prompt, steps) for prompt in PROMPTS]
        margins = []
        for prompt, new in zip(PROMPTS, made, strict=True):
            with torch.no_grad():
                logits = oracle(torch.tensor([prompt + new])).logits[0, len(prompt) - 1 : -1]
            best = logits.topk(2).values
            margins.append(float((best[:, 0] - best[:, 1]).min()))
        if min(margins) > 0.01:
            return found, made
    raise RuntimeError("no seed gives a checkpoint without near ties")


@pytest.mark.task("generate")
def test_pad_batch_shapes(student, check):
    """Tokens and positions are int64 [B, T], whatever the lengths."""
    tokens, positions = student.generate.pad_batch([[9], [5, 6, 7], [1, 2]])
    check.equal(tokens, torch.tensor([[9, 0, 0], [5, 6, 7], [1, 2, 0]]))
    check.equal(positions, torch.tensor([[0, -1, -1], [0, 1, 2], [0, 1, -1]]))


@pytest.mark.task("generate", weight=2)
@pytest.mark.parametrize("count", [1, 4])
def test_generate_greedy(student, check, given_dir, rng_seed, count):
    """Greedy tokens of a ragged batch are those transformers makes for each prompt alone."""
    seed, expected = decisive(rng_seed % 1000)
    write_llama(given_dir, seed)
    model = student.model.load_model(str(given_dir))
    out = student.generate.generate(model, PROMPTS[:count], 6)
    check.equal(out, expected[:count], given={"prompts": PROMPTS[:count]})


@pytest.mark.task("generate", weight=2)
def test_generate_stops(student, check, given_dir, rng_seed):
    """A sequence ends with its own first stop token or limit; the others go on unchanged."""
    seed, free = decisive(rng_seed % 1000)
    write_llama(given_dir, seed)
    model = student.model.load_model(str(given_dir))
    # The second stop token stands in a prompt: only what is generated counts.
    limits, stops = [6, 0, 5, 1], [free[0][2], PROMPTS[0][0]]
    expected = []
    for row, limit in zip(free, limits, strict=True):
        end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
        expected.append(row[: min(end, limit)])
    out = student.generate.generate(model, PROMPTS, limits, stops)
    given = {"prompts": PROMPTS, "limits": limits, "stop_tokens": stops}
    check.equal(out, expected, given=given)
    check.equal(student.generate.generate(model, PROMPTS, 0), [[], [], [], []], given={"limit": 0})


@pytest.mark.task("generate")
def test_generate_penalty(student, check, given_dir, rng_seed):
    """The repetition penalty looks at the prompt and at what was generated."""
    for attempt in range(100):
        oracle = write_llama(given_dir, (rng_seed + attempt) % 1000)
        tokens, near = list(PROMPTS[0]), False
        for _ in range(6):
            with torch.no_grad():
                row = oracle(torch.tensor([tokens])).logits[0, -1].tolist()
            p = reference.probabilities(row, 0.0, penalty=5.0, previous=tokens)
            soft = sorted(reference.probabilities(row, 1.0, penalty=5.0, previous=tokens))
            near |= math.log(soft[-1] / soft[-2]) < 0.01
            tokens.append(p.index(1.0))
        if not near:  # no choice hangs on rounding
            break
    model = student.model.load_model(str(given_dir))
    out = student.generate.generate(model, PROMPTS[:1], 6, repetition_penalty=5.0)
    check.equal(out, [tokens[len(PROMPTS[0]) :]], given={"prompt": PROMPTS[0]})


@pytest.mark.task("generate")
def test_generate_draws(student, check, given_dir, rng_seed):
    """Two sampled tokens occur as often as the chain of their distributions says; seeds repeat."""
    oracle = write_llama(given_dir, rng_seed % 1000)
    model = student.model.load_model(str(given_dir))
    prompt, count, settings = PROMPTS[0], 400, {"temperature": 1.5, "top_k": 2}

    def step(tokens: list[int]) -> dict[int, float]:
        with torch.no_grad():
            row = oracle(torch.tensor([tokens])).logits[0, -1].tolist()
        return {t: p for t, p in enumerate(reference.probabilities(row, **settings)) if p}

    expected = {
        (a, b): p * q for a, p in step(prompt).items() for b, q in step([*prompt, a]).items()
    }

    def run(rows: int, seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return student.generate.generate(model, [prompt] * rows, 2, (), generator, **settings)

    few = [run(20, seed) for seed in (5, 5, 6)]
    check.true(few[0] == few[1], "the same seed gave other tokens", given=settings)
    check.true(few[0] != few[2], "another seed gave the same tokens", given=settings)
    drawn = [tuple(row) for row in run(count, 7)]
    check.true(set(drawn) <= set(expected), "a token outside the top k was drawn", given=settings)
    share = torch.tensor([drawn.count(pair) / count for pair in expected])
    # Five standard deviations of a share of 400 draws are at most 0.125.
    check.close(share, torch.tensor(list(expected.values())), rtol=0, atol=0.125, given=settings)


@pytest.mark.task("generate")
@pytest.mark.parametrize("prompts", [[], [[1], []]], ids=str)
def test_generate_refuses(student, check, prompts):
    """No prompts, or an empty one, are refused."""
    with check.raises(ValueError):
        student.generate.pad_batch(prompts)


@pytest.mark.task("generate")
def test_generate_refuses_limits(student, check, given_dir, rng_seed):
    """Another number of limits than of prompts is refused."""
    write_llama(given_dir, rng_seed % 1000)
    model = student.model.load_model(str(given_dir))
    with check.raises(ValueError):
        student.generate.generate(model, PROMPTS, [3, 3])


STREAMS = {
    "ascii": b"abc",
    "valid": "\ufeffaé€😀 \u0301z\ufffd".encode(),
    "lone": b"\x80a\xbf\xbf",
    "broken": b"a\xff\xe2\x82(\xf0\x9f\x98\xc3\xa9\x80\xed\xa0\x80\xf0\x9f",
    "never": b"\xc0\x80\xf5\x80\xe0\x80\x80\xf4\x90\x80\x80\xf0\x80z\xe2",
}


def certain_text(data: bytes) -> str:
    """The start of the decoded text that is the same however the bytes go on."""
    ends = [b"a"] + [bytes([c]) + b"\x80\x80" for c in (0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF)]
    ends += [bytes([c]) for c in (0x80, 0xBD, 0xBF)]
    texts = [(data + end).decode(errors="replace") for end in ends]
    return os.path.commonprefix(texts)


@pytest.mark.task("detokenize", weight=2)
@pytest.mark.parametrize("name", list(STREAMS))
@pytest.mark.parametrize("size", [1, 2, 3])
def test_detokenize_stream(student, check, name, size):
    """Each push brings all text that is certain, and no more; joined, it is the decoded whole."""
    data = STREAMS[name]
    pieces = [data[i : i + size] for i in range(0, len(data), size)] + [b""]
    stream = student.detokenize.IncrementalDetokenizer(pieces)
    got, shown = "", b""
    for index, piece in enumerate(pieces):
        new = stream.push(index)
        check.true(isinstance(new, str), "push returns text", got=str(new))
        got, shown = got + new, shown + piece
        want = certain_text(shown)
        if shown[-2:-1] == b"\xed" and 0xA0 <= shown[-1] <= 0xBF and got != want:
            want = certain_text(shown[:-2])  # what Python's own incremental decoder does
        check.equal(got, want, given={"bytes so far": shown.hex(" ")})
    got += stream.flush()
    given = {"bytes": data.hex(" "), "bytes a token": size}
    check.equal(got, data.decode(errors="replace"), given=given)


@pytest.mark.task("detokenize")
def test_detokenize_flush(student, check):
    """flush shows what is held back, once, and the next stream starts afresh."""
    stream = student.detokenize.IncrementalDetokenizer([b"a\xe2\x82", b"\xacb"])
    got = [stream.push(0), stream.flush(), stream.flush(), stream.push(1), stream.flush()]
    check.equal(got, ["a", "\ufffd", "", "\ufffdb", ""], given={"bytes": "61 e2 82 | ac 62"})
    got = [stream.push(0), stream.push(1), stream.flush()]
    check.equal(got, ["a", "€b", ""], given={"bytes": "61 e2 82 | ac 62, after a flush"})


@pytest.mark.task("detokenize")
def test_piece_bytes(student, check):
    """Pieces of byte-level BPE map back to their bytes; added tokens read as written."""
    cases = [
        ("Ġthe", b" the"),
        ("Ã©", b"\xc3\xa9"),
        ("Ċ", b"\n"),
        ("<|终|>", "<|终|>".encode()),
        ("ÿ", b"\xff"),
        ("Ń", b"\xad"),
        ("Ġ", b" "),
        ("<s>", b"<s>"),
        ("a b", b"a b"),
        ("", b""),
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
def test_stops_random(student, check, rng_seed):
    """The same holds for random stops, random text and random cuts, empty pieces among them."""
    pick = random.Random(rng_seed)
    for _ in range(60):
        stops = [
            "".join(pick.choices("ab ", k=pick.randint(1, 4))) for _ in range(pick.randint(1, 3))
        ]
        text = "".join(pick.choices("abc " if pick.random() < 0.5 else "aab ", k=12))
        matcher = student.stopping.StopStringMatcher(stops)
        shown, stopped, end = "", False, 0
        while end < len(text):
            start, end = end, end + pick.randrange(4)
            new, stopped = matcher.push(text[start:end])
            shown += new
            given = {"stops": stops, "text": text[:end], "last piece": text[start:end]}
            check.equal([shown, stopped], list(stop_reference(text[:end], stops)), given=given)
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
