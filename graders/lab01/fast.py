"""Lab 01's GPU tier: how fast a submission decodes, and whether what it decodes is right.

Calls with fresh prompts are timed one by one: prefill and ``steps`` decoded tokens, from before
the first request until the last token is here. Prefill is inside, because decoding could else be
done there, outside the clock; many steps keep its share small. Every output of a timed call is
checked against transformers with the same weights.

Axes: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import secrets
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graders.lab01.checkpoints import readable
from graders.oracle import gpu
from graders.oracle.checks import Check, CheckFailed
from graders.oracle.proxy import Student

TERA = 1e12
_ROWS = 4  # sequences the reference looks at together: bounds the memory for its logits


@dataclass(frozen=True)
class Workload:
    """The model and the calls. The model has the shape of Llama-3.2-1B: 1.24 B parameters."""

    vocab_size: int = 128256
    hidden_size: int = 2048
    num_layers: int = 16
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 64
    intermediate_size: int = 8192
    dtype: torch.dtype = torch.bfloat16
    prompt: int = 128
    steps: int = 256
    calls: int = 5  # timed, after one that is not
    reference_calls: int = 3
    calibration_rows: int = 4

    @property
    def max_len(self) -> int:
        """Slots that a decoder needs."""
        return self.prompt + self.steps

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in every layer."""
        width = self.num_kv_heads * self.head_dim * self.dtype.itemsize
        return 2 * self.num_layers * width

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The checkpoint's tensors; the head is the embedding."""
        yield "model.embed_tokens.weight", (self.vocab_size, self.hidden_size)
        yield "model.norm.weight", (self.hidden_size,)
        query, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        wide, narrow = self.intermediate_size, self.hidden_size
        for layer in range(self.num_layers):
            p = f"model.layers.{layer}"
            yield f"{p}.input_layernorm.weight", (narrow,)
            yield f"{p}.post_attention_layernorm.weight", (narrow,)
            yield f"{p}.self_attn.q_proj.weight", (query, narrow)
            yield f"{p}.self_attn.k_proj.weight", (kv, narrow)
            yield f"{p}.self_attn.v_proj.weight", (kv, narrow)
            yield f"{p}.self_attn.o_proj.weight", (narrow, query)
            yield f"{p}.mlp.gate_proj.weight", (wide, narrow)
            yield f"{p}.mlp.up_proj.weight", (wide, narrow)
            yield f"{p}.mlp.down_proj.weight", (narrow, wide)

    def weight_bytes(self) -> int:
        """Every parameter once: what a step reads, as the head alone reads the whole embedding."""
        return sum(torch.Size(shape).numel() for _, shape in self.shapes()) * self.dtype.itemsize

    def decode_bytes(self, batch: int) -> int:
        """The least that ``steps`` steps read: the weights, and the cache of every token so far."""
        context = sum(self.prompt + step for step in range(1, self.steps + 1))
        return self.steps * self.weight_bytes() + context * batch * self.kv_bytes_per_token

    def bytes_moved(self, batch: int) -> int:
        """The least that a timed call reads: prefill needs the weights once, too."""
        return self.weight_bytes() + self.decode_bytes(batch)


WORKLOAD = Workload()  # what is graded


def write_checkpoint(work: Workload, folder: Path, seed: int, device: str) -> None:
    """Random weights in the layout of Hugging Face, readable by the submission.

    Each matrix keeps the size of what it is applied to, and queries and keys are larger, so that
    what a token attends to matters: with flat attention a broken cache would hardly show.
    """
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    folder.mkdir(parents=True, exist_ok=True)
    LlamaConfig(
        vocab_size=work.vocab_size, hidden_size=work.hidden_size,
        intermediate_size=work.intermediate_size, num_hidden_layers=work.num_layers,
        num_attention_heads=work.num_heads, num_key_value_heads=work.num_kv_heads,
        head_dim=work.head_dim, max_position_embeddings=max(2048, work.max_len),
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, dtype=work.dtype,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    generator = torch.Generator(device=device).manual_seed(seed)
    tensors = {}
    for name, shape in work.shapes():
        if len(shape) == 1:
            value = torch.rand(shape, generator=generator, device=device) + 0.5
        else:
            value = torch.randn(shape, generator=generator, device=device) * shape[1] ** -0.5
            value *= 1.4 if "q_proj" in name or "k_proj" in name else 1.0
        tensors[name] = value.to(work.dtype).cpu()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    readable(folder)


def load_reference(work: Workload, folder: Path, device: str) -> Any:
    """transformers' model of the checkpoint."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=work.dtype, attn_implementation="sdpa")
    return model.eval().to(device)


@dataclass(frozen=True)
class Rounding:
    """How far rounding alone takes a right implementation, seen on the reference itself.

    ``logit_error`` is the largest difference of any logit between the reference in the workload's
    dtype and in fp32. ``differing`` is the share of rows whose likeliest token is another one.
    """

    logit_error: float
    differing: float

    @property
    def tolerance(self) -> float:
        """A chosen token's logit may lie this far below the largest.

        Two logits are compared in two implementations, and each of the four may be off.
        """
        return 4 * self.logit_error

    def allowed(self, count: int) -> float:
        """Share of ``count`` tokens that need not be the likeliest.

        Three times what one rounding does, as here two differ, and four standard deviations for
        the luck of so few tokens.
        """
        share = min(1.0, 3 * self.differing + 0.02)
        return min(1.0, share + 4 * (share * (1 - share) / count) ** 0.5)


@torch.inference_mode()
def calibrate(work: Workload, reference: Any, device: str, seed: int) -> Rounding:
    """Compare the reference with itself in fp32, on random tokens of a timed call's length."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(
        work.vocab_size, (work.calibration_rows, work.max_len), generator=generator
    ).to(device)
    wide = copy.deepcopy(reference).float()
    error, differing = 0.0, []
    for row in tokens.split(1):
        low = reference(row, use_cache=False).logits.float()
        exact = wide(row, use_cache=False).logits
        error = max(error, float((low - exact).abs().max()))
        chosen = low.gather(-1, exact.argmax(dim=-1, keepdim=True))[..., 0]
        differing.append(float((chosen < low.amax(dim=-1)).float().mean()))
    del wide
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    return Rounding(error, statistics.fmean(differing))


@torch.inference_mode()
def check_tokens(
    work: Workload,
    reference: Any,
    rounding: Rounding,
    prompts_BT: torch.Tensor,
    tokens_BT: torch.Tensor,
    device: str,
) -> None:
    """Every generated token is the likeliest one after what stands before it, up to rounding.

    The reference reads prompt and answer in one pass: it judges each token by the submission's own
    earlier tokens, so that one choice between two equals does not condemn all that follow.

    Raises:
        CheckFailed: a token is impossible, or too many are not the likeliest.
    """
    if not bool(((tokens_BT >= 0) & (tokens_BT < work.vocab_size)).all()):
        raise CheckFailed("a token is outside the vocabulary", got=tokens_BT)
    short = []
    count = tokens_BT.shape[1]
    for prompts, tokens in zip(prompts_BT.split(_ROWS), tokens_BT.split(_ROWS), strict=True):
        read = torch.cat((prompts, tokens[:, :-1]), dim=1).to(device)
        logits = reference(read, use_cache=False, logits_to_keep=count).logits
        chosen = logits.gather(-1, tokens.to(device)[..., None])[..., 0]
        short.append((logits.amax(dim=-1).float() - chosen.float()).cpu())
    short_BT = torch.cat(short)
    wrong = short_BT > rounding.tolerance
    if bool(wrong.any()):
        step = int(wrong.any(dim=0).nonzero()[0])
        raise CheckFailed(
            f"{int(wrong.sum())} of {wrong.numel()} tokens are wrong, the first at step {step}",
            expected=f"logits within {rounding.tolerance:.3g} of the row's largest",
            got=f"up to {float(short_BT.max()):.3g} below it",
        )
    share = float((short_BT > 0).float().mean())
    allowed = rounding.allowed(short_BT.numel())
    if share > allowed:
        raise CheckFailed(
            "too many tokens are not the likeliest: more than rounding explains",
            expected=f"at most {allowed:.1%} of the tokens",
            got=f"{share:.1%}",
        )


def measure(
    student: Student,
    work: Workload,
    batch: int,
    folder: Path,
    reference: Any,
    rounding: Rounding,
    device: str,
    *,
    copy_bandwidth: float | None = None,
) -> gpu.Measurement:
    """Time the submission's decoder, in turns with transformers' generate; check every output.

    ``copy_bandwidth`` is measured when left out.

    Raises:
        CheckFailed, BadAnswer, StudentError, WorkerLost: what the submission did wrong; also for
            times beyond the roofline.
    """
    seed = secrets.randbits(48)  # nobody can have the answers ready
    generator = torch.Generator().manual_seed(seed)
    result = gpu.Measurement(
        f"batch {batch}",
        bytes_moved=work.bytes_moved(batch),
        copy_bandwidth=copy_bandwidth or gpu.copy_bandwidth(device),
    )
    check = Check(device)
    model = student.model.load_model(str(folder), work.dtype, device)
    decoder = student.fast_decode.FastDecoder(model, batch, work.max_len)
    prefill, advance = decoder.prefill, decoder.decode
    decode_s: list[float] = []

    def decode(prompts: torch.Tensor) -> tuple[Any, Any]:
        first = prefill(prompts)
        started = time.perf_counter()
        rest = advance(work.steps)
        decode_s.append(time.perf_counter() - started)
        return first, rest

    for number in range(work.calls + 1):
        # Call 0 warms up, and nothing tells the submission so.
        prompts = torch.randint(work.vocab_size, (batch, work.prompt), generator=generator)
        with gpu.Flush(device) as flush:
            flush()
        seconds, (first, rest) = gpu.timed(lambda given=prompts: decode(given), device)  # type: ignore[misc]
        first = check.tensor(first, shape=(batch,), dtype=torch.int64)
        rest = check.tensor(rest, shape=(batch, work.steps), dtype=torch.int64)
        tokens = torch.cat((first[:, None], rest), dim=1)
        check_tokens(work, reference, rounding, prompts, tokens, device)
        if number:
            result.samples_s.append(seconds)
        if number <= work.reference_calls:
            seconds = generate_seconds(work, reference, prompts, device)
            if number:
                result.reference_s.append(seconds)
    decode_alone = work.decode_bytes(batch) / statistics.median(decode_s[1:])
    result.facts = {
        **gpu.device_facts(device),
        "seed": seed,
        "batch": batch,
        "prompt": work.prompt,
        "steps": work.steps,
        "decode_samples_s": decode_s[1:],
        "decode_fraction": decode_alone / result.copy_bandwidth,
        "logit_tolerance": rounding.tolerance,
        "differing_allowed": rounding.allowed(batch * (work.steps + 1)),
    }
    result.require_possible()
    return result


def generate_seconds(work: Workload, reference: Any, prompts: torch.Tensor, device: str) -> float:
    """Wall clock of transformers' greedy generate for as many tokens as a timed call makes."""
    from transformers import GenerationConfig

    count = work.steps + 1  # the token that prefill yields, and the steps after it
    settings = GenerationConfig(
        max_new_tokens=count, min_new_tokens=count, do_sample=False, use_cache=True,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    given = prompts.to(device)
    mask = torch.ones_like(given)
    seconds, made = gpu.timed(
        lambda: reference.generate(given, attention_mask=mask, generation_config=settings).cpu(),
        device,
    )
    if made.shape[1] != prompts.shape[1] + count:
        raise RuntimeError(f"generate made {made.shape[1] - prompts.shape[1]} tokens, not {count}")
    return seconds


def line(found: gpu.Measurement) -> str:
    """The measurement for the report."""
    return (
        f"{found.name}: {found.fraction:.2f} of copy bandwidth "
        f"({found.bandwidth / TERA:.2f} of {found.copy_bandwidth / TERA:.2f} TB/s; "
        f"{found.facts['decode_fraction']:.2f} without prefill), "
        f"{found.ratio:.1f} times as fast as transformers' generate"
    )
