"""What the shipped models are worth: the measurements behind their card.

Quantizers here are the plainest there are (absmax, round, clip), simulated in fp32. They show
what the planted outlier channels do; lab 03 builds the real ones.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch

from labs.common.corpus import KINDS, document
from labs.common.linears import inner_linears, linear_inputs
from labs.common.perplexity import evaluation_tokens, perplexity

#: How each answer begins in a document: what stands before it is the prompt.
_ANSWER_AFTER = {"story": "? ", "sums": " = ", "code": "\n"}
_RECORD_PROMPTS = ('{"type": "person",', '{"type": "order",', '{"type": "weather",')
OUTLIER_THRESHOLD = 6.0


# -- agreement of the two models


@torch.no_grad()
def acceptance(target: Any, draft: Any, tokens: torch.Tensor, batch: int = 8) -> dict[str, float]:
    """How well ``draft`` foretells ``target`` over the rows of ``tokens``, at every position.

    ``sampled``: mean of sum_v min(p(v), q(v)), the probability that speculative sampling at
    temperature 1 accepts the draft's token (Leviathan et al. 2023, arXiv 2211.17192).
    ``greedy``: share of positions where both have the same largest logit.
    """
    sampled = greedy = 0.0
    for rows in tokens.split(batch):
        p, q = (m(rows).logits.float() for m in (target, draft))
        sampled += torch.minimum(p.softmax(-1), q.softmax(-1)).sum().item()
        greedy += (p.argmax(-1) == q.argmax(-1)).sum().item()
    return {"sampled": sampled / tokens.numel(), "greedy": greedy / tokens.numel()}


# -- what the model writes


@torch.no_grad()
def complete(model: Any, tokenizer: Any, prompt: str, limit: int = 24) -> str:
    """What ``model`` writes after ``<s>`` and ``prompt``, greedily, up to ``</s>``."""
    ids = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
    given, cache, out = torch.tensor([ids]), None, []
    for _ in range(limit):
        result = model(given, past_key_values=cache, use_cache=True)
        cache, token = result.past_key_values, int(result.logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        out.append(token)
        given = torch.tensor([[token]])
    return tokenizer.decode(out)


def questions(kind: str, count: int) -> list[tuple[str, str]]:
    """``count`` held-out pairs (prompt, right answer): a story, sums or code up to its last result.

    The prompt ends without a space, as the answer's first token has its own.
    """
    pairs, mark = [], _ANSWER_AFTER[kind]
    for index in range(count):
        text = document("questions", index, held_out=True, kind=kind).text
        prompt, _, answer = text.rpartition(mark)
        pairs.append((prompt + mark.rstrip(" "), answer))
    return pairs


def right_answers(model: Any, tokenizer: Any, kind: str, count: int = 40) -> float:
    """Share of ``questions`` whose answer the model gives, greedily and to the letter."""
    right = 0
    for prompt, answer in questions(kind, count):
        right += complete(model, tokenizer, prompt).split("\n")[0].strip() == answer
    return right / count


def valid_records(model: Any, tokenizer: Any, limit: int = 160) -> list[dict[str, Any] | None]:
    """The record that the model writes for each schema, or None where it is not JSON."""
    out: list[dict[str, Any] | None] = []
    for prompt in _RECORD_PROMPTS:
        try:
            out.append(json.loads(prompt + complete(model, tokenizer, prompt, limit)))
        except json.JSONDecodeError:
            out.append(None)
    return out


# -- outliers and plain quantization


def input_peaks(model: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Largest magnitude of each input channel of each inner linear layer: fp32 [in] by name."""
    peaks: dict[str, torch.Tensor] = {}
    for rows in tokens.split(8):  # so that not all inputs are held at once
        for name, x in linear_inputs(model, rows).items():
            peak = x.abs().amax(0)
            peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak
    return peaks


def salient_channels(model: Any, tokens: torch.Tensor, count: int) -> list[int]:
    """The residual channels that are largest behind the norms: by the mean log of their peaks."""
    peaks = input_peaks(model, tokens)
    logs = [p.log() for name, p in peaks.items() if name.endswith(("q_proj", "gate_proj"))]
    return sorted(torch.stack(logs).mean(0).topk(count).indices.tolist())


def absmax(x: torch.Tensor, bits: int = 8, axis: int | None = None) -> torch.Tensor:
    """``x`` rounded to ``bits`` symmetric levels, one scale for all of it or one along ``axis``."""
    top = 2 ** (bits - 1) - 1
    peak = x.abs().amax() if axis is None else x.abs().amax(axis, keepdim=True)
    scale = peak.clamp_min(1e-12) / top
    return (x / scale).round().clamp(-top, top) * scale


def _groups(w: torch.Tensor, bits: int) -> torch.Tensor:
    return absmax(w.view(w.shape[0], -1, 128), bits, axis=-1).view_as(w)


def _without_outliers(x: torch.Tensor) -> torch.Tensor:
    """As LLM.int8: channels that reach the threshold stay as they are, the rest by rows."""
    kept = (x.abs() >= OUTLIER_THRESHOLD).flatten(0, -2).any(0)
    return torch.where(kept, x, absmax(torch.where(kept, 0.0, x), axis=-1))


NO_SCHEME = "none"
_Step = Callable[[torch.Tensor], torch.Tensor]
#: name -> what happens to each weight, and to each input of a linear layer.
SCHEMES: dict[str, tuple[_Step, _Step | None]] = {
    NO_SCHEME: (lambda w: w, None),
    "W8, a scale a row": (lambda w: absmax(w, axis=-1), None),
    "W8A8, a scale a tensor": (absmax, absmax),
    "W8A8, a scale a row and a token": (lambda w: absmax(w, axis=-1), lambda x: absmax(x, axis=-1)),
    "the same, channels of 6 and more apart": (lambda w: absmax(w, axis=-1), _without_outliers),
    "W4, groups of 128": (lambda w: _groups(w, 4), None),
    "W3, groups of 128": (lambda w: _groups(w, 3), None),
}


@contextlib.contextmanager
def quantized(model: Any, scheme: str) -> Iterator[Any]:
    """``model`` under one of ``SCHEMES``; as it was afterwards."""
    on_weight, on_input = SCHEMES[scheme]
    layers = inner_linears(model).values()
    before = [layer.weight.data for layer in layers]
    handles = []
    for layer in layers:
        layer.weight.data = on_weight(layer.weight.data)
        if on_input is not None:
            handles.append(
                layer.register_forward_pre_hook(lambda _, given, f=on_input: (f(given[0]),))
            )
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.data = weight


def cost_of_schemes(model: Any, tokens: torch.Tensor | None = None) -> dict[str, float]:
    """Perplexity of ``model`` under each of ``SCHEMES``."""
    out = {}
    for scheme in SCHEMES:
        with quantized(model, scheme):
            out[scheme] = perplexity(model, tokens).perplexity
    return out


def evaluate(model: Any) -> dict[str, dict[str, float]]:
    """Perplexity, nats a token and bits a byte: on all kinds mixed, then on each."""
    out = {}
    for kind in (None, *KINDS):
        found = perplexity(model, evaluation_tokens(kind, rows=96 if kind is None else 32))
        out[kind or "mixed"] = {
            "perplexity": found.perplexity,
            "nll": found.nll,
            "bits_per_byte": found.bits_per_byte,
        }
    return out
