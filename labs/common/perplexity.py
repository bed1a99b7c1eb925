"""Perplexity, and the fixed tokens it is measured on.

The protocol. Documents are tokenized one by one as ``<s>`` text ``</s>`` and joined; a row is the
first 256 tokens of such a run, so that every row begins with ``<s>`` and ends somewhere. Rows do
not overlap and share no context (window = stride = 256). Positions 1 to 255 are predicted, each
from all tokens before it in its row; all of them count, ``</s>`` and an inner ``<s>`` too. The
log-softmax and the sum are taken in fp32 or better, whatever the dtype of the logits. Perplexity
is exp(mean NLL). It compares models over the same tokens only; bits per byte compares any two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from labs.common.corpus import document
from labs.common.tiny_models import TARGET

WINDOW = 256
EVALUATION_ROWS = 96
# Documents set aside for a row. Rows are thus independent of each other, and of the tokenizer.
_DOCUMENTS_A_ROW = 64


@dataclass(frozen=True)
class Perplexity:
    """What a model makes of a text.

    Attributes:
        perplexity: exp of ``nll``.
        nll: mean negative log-likelihood, nats per predicted token.
        bits_per_byte: total NLL in bits over the bytes of the predicted tokens (special tokens
            have none); NaN if the tokens are of another tokenizer than was given.
        tokens: how many tokens were predicted.
    """

    perplexity: float
    nll: float
    bits_per_byte: float
    tokens: int


@torch.no_grad()
def perplexity(
    model: Callable[[torch.Tensor], Any],
    tokens: torch.Tensor | None = None,
    batch: int = 8,
    *,
    tokenizer: Any = None,
) -> Perplexity:
    """Perplexity of ``model`` over the rows of ``tokens``.

    Args:
        model: maps int64 [batch, length] to logits [batch, length, vocab], or to an object with
            ``.logits``, as Hugging Face's models do. One of these is fed on its own device, and is
            in eval mode while it is measured.
        tokens: int64 [rows, length], length at least 2; ``evaluation_tokens()`` if absent.
        batch: rows at a time. It changes nothing but speed and memory.
        tokenizer: whose tokens they are, for bits per byte; the shipped one if absent.

    Raises ValueError for tokens of another shape, no rows, or logits of another shape.
    """
    tokens = evaluation_tokens() if tokens is None else tokens
    if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise ValueError(f"tokens must be [rows, length >= 2], not {list(tokens.shape)}")
    device = _device(model)
    training = isinstance(model, torch.nn.Module) and model.training
    if training:
        model.eval()  # type: ignore[attr-defined]
    total = torch.zeros((), dtype=torch.float64)
    try:
        for rows in tokens.split(batch):
            total += _nll(model, rows.to(device)).cpu()
    finally:
        if training:
            model.train()  # type: ignore[attr-defined]
    count = tokens[:, 1:].numel()
    nll = float(total) / count
    bytes_ = _bytes(tokens[:, 1:], tokenizer)
    bits_per_byte = float(total) / math.log(2) / bytes_ if bytes_ else math.nan
    return Perplexity(math.exp(min(nll, 700.0)), nll, bits_per_byte, count)


def _nll(model: Callable[[torch.Tensor], Any], rows: torch.Tensor) -> torch.Tensor:
    """Summed NLL, fp64 [], of positions 1.. of ``rows``."""
    out = model(rows)
    logits = out if isinstance(out, torch.Tensor) else out.logits
    if logits.shape[:2] != rows.shape:
        raise ValueError(f"logits {list(logits.shape)} do not belong to tokens {list(rows.shape)}")
    kept = logits[:, :-1]
    kept = kept if kept.dtype == torch.float64 else kept.float()
    picked = torch.log_softmax(kept, dim=-1).gather(-1, rows[:, 1:, None].to(kept.device))
    return -picked.double().sum()


def _device(model: object) -> torch.device:
    parameter = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def evaluation_tokens(
    kind: str | None = None, *, rows: int = EVALUATION_ROWS, tokenizer: Any = None
) -> torch.Tensor:
    """The held-out rows every perplexity of the course is measured on: int64 [rows, 256].

    ``kind`` (see ``corpus.KINDS``) takes documents of one kind. The text is the same for every
    ``tokenizer``; by default it is the shipped one.
    """
    return packed_rows("evaluation", rows, WINDOW, held_out=True, kind=kind, tokenizer=tokenizer)


def calibration_tokens(
    count: int = 32, length: int = 128, seed: int = 0, *, tokenizer: Any = None
) -> torch.Tensor:
    """Tokens to calibrate a quantizer on: int64 [count, length].

    From the training side, so never among ``evaluation_tokens``. Each ``seed`` is a text of its
    own, and a smaller ``count`` or ``length`` is a corner of a larger one.
    """
    return packed_rows(f"calibration-{seed}", count, length, tokenizer=tokenizer)


def packed_rows(
    stream: str,
    count: int,
    length: int,
    *,
    start: int = 0,
    held_out: bool = False,
    kind: str | None = None,
    tokenizer: Any = None,
) -> torch.Tensor:
    """Rows ``start`` to ``start + count`` of a stream of documents: int64 [count, length].

    Row r packs documents 64 r, 64 r + 1, ... until it is full, and is cut there. Raises ValueError
    if a row needs more than its 64 documents (about 3,000 tokens).
    """
    tokenizer = tokenizer or shipped_tokenizer()
    rows = torch.empty(count, length, dtype=torch.int64)
    for row in range(count):
        tokens: list[int] = []
        first = (start + row) * _DOCUMENTS_A_ROW
        for index in range(first, first + _DOCUMENTS_A_ROW):
            tokens += encode(tokenizer, document(stream, index, held_out=held_out, kind=kind).text)
            if len(tokens) >= length:
                break
        if len(tokens) < length:
            raise ValueError(
                f"a row of {length} tokens needs more than {_DOCUMENTS_A_ROW} documents"
            )
        rows[row] = torch.tensor(tokens[:length])
    return rows


def encode(tokenizer: Any, text: str) -> list[int]:
    """A whole document: ``<s>`` text ``</s>``, each only if the tokenizer has such a token."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return begin + list(tokenizer.encode(text, add_special_tokens=False)) + end


@functools.cache
def shipped_tokenizer() -> Any:
    """The tokenizer of both shipped models."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(TARGET), local_files_only=True)


def _bytes(tokens: torch.Tensor, tokenizer: Any) -> int:
    """How many bytes of text ``tokens`` stand for; 0 if the tokenizer lacks some of them."""
    tokenizer = tokenizer or shipped_tokenizer()
    if int(tokens.max()) >= len(tokenizer):
        return 0
    ids = tokens.flatten().tolist()
    # Not token by token: other tokenizers drop a leading space, and half a character has no text.
    special = set(tokenizer.all_special_ids)
    if hasattr(tokenizer, "backend_tokenizer") and _is_byte_level(tokenizer):
        table = {text: len(text) for text in set(tokenizer.convert_ids_to_tokens(set(ids)))}
        names = tokenizer.convert_ids_to_tokens(ids)
        return sum(table[n] for n, i in zip(names, ids, strict=True) if i not in special)
    return sum(
        len(tokenizer.decode(row.tolist(), skip_special_tokens=True).encode()) for row in tokens
    )


def _is_byte_level(tokenizer: Any) -> bool:
    """Whether one character of a token's name stands for one byte (GPT-2's alphabet)."""
    return "ByteLevel" in type(tokenizer.backend_tokenizer.decoder).__name__
