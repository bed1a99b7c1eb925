"""Make the shipped files of two finished training runs: weights, figures, card, manifest.

Everything in ``tiny_models/`` is written here; the card is rendered from evaluation.json and
training.json, so that no figure in it is typed by hand.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from labs.common import measure_tiny as measure
from labs.common.corpus import KINDS, corpus_hash
from labs.common.perplexity import calibration_tokens, evaluation_tokens, perplexity
from labs.common.tiny_models import (
    FOLDER,
    OUTLIER_COUNT,
    OUTLIER_EXPONENT,
    VOCAB_SIZE,
    load_tiny,
    model_config,
    outlier_channels,
    plant_outliers,
    train_tokenizer,
)
from labs.common.train_tiny import RECIPES, WORK, Recipe, data_hash, new_model

PREFIX = 10  # steps whose losses and data are kept, for a test to repeat
CURVE_EVERY = 50
HASHED_DOCUMENTS = 2000


def ship(work: Path = WORK, folder: Path = FOLDER) -> None:
    """Write weights and tokenizer, measure them, write figures, card and manifest."""
    training = {name: _ship_model(work / f"{name}.pt", name, folder / name) for name in RECIPES}
    training["corpus"] = {
        "documents": HASHED_DOCUMENTS,
        "train_sha256": corpus_hash(HASHED_DOCUMENTS),
        "held_out_sha256": corpus_hash(HASHED_DOCUMENTS, "evaluation", held_out=True),
    }
    _write(folder / "training.json", training)
    outlier_channels.cache_clear()
    _write(folder / "evaluation.json", _evaluation())
    render(folder)


def render(folder: Path = FOLDER) -> None:
    """Write the card, its curve and the manifest from the two files of figures."""
    training, evaluation = (_read(folder / f"{n}.json") for n in ("training", "evaluation"))
    (folder / "loss.svg").write_text(curve_svg(training), encoding="utf-8")
    (folder / "README.md").write_text(card(training, evaluation), encoding="utf-8")
    _write(folder / "manifest.json", manifest(folder))
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # a worker of another uid reads them


def manifest(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Bytes and SHA-256 of every file under ``folder`` but the manifest itself."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / "manifest.json"
    }


def _ship_model(checkpoint: Path, name: str, directory: Path) -> dict[str, Any]:
    from safetensors.torch import save_file

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = {key: value.float() for key, value in state["model"].items()}
    train_tokenizer(directory)
    if name == "target":
        model = new_model(name, 0).eval()
        model.load_state_dict(weights)
        channels = measure.salient_channels(model, calibration_tokens(), OUTLIER_COUNT)
        _write(directory.parent / "outliers.json", channels)
        weights = plant_outliers(weights, channels)
    if model_config(name)["tie_word_embeddings"]:
        weights.pop("lm_head.weight", None)
    save_file(
        {key: value.to(torch.bfloat16).contiguous() for key, value in weights.items()},
        str(directory / "model.safetensors"),
        metadata={"format": "pt"},
    )
    _write(directory / "config.json", model_config(name))
    losses: list[float] = state["losses"]
    recipe = Recipe(**state["recipe"])
    return {
        "recipe": asdict(recipe),
        "parameters": sum(value.numel() for value in weights.values()),
        "steps_done": len(losses),
        "first_losses": losses[:PREFIX],
        "first_data_sha256": data_hash(recipe, PREFIX),
        "curve": [
            sum(part) / len(part)
            for part in (losses[i : i + CURVE_EVERY] for i in range(0, len(losses), CURVE_EVERY))
        ],
        "seconds": round(state["seconds"]),
        "made_with": state["made_with"],
    }


def _evaluation() -> dict[str, Any]:
    models = {}
    loaded = {name: load_tiny(name) for name in RECIPES}
    for name, (model, tokenizer) in loaded.items():
        models[name] = {
            "by_kind": measure.evaluate(model),
            "bf16_arithmetic": perplexity(load_tiny(name, dtype=torch.bfloat16)[0]).perplexity,
            "right_answers": {
                kind: measure.right_answers(model, tokenizer, kind)
                for kind in KINDS
                if kind != "record"
            },
            "valid_records": sum(r is not None for r in measure.valid_records(model, tokenizer)),
        }
    target, draft = loaded["target"][0], loaded["draft"][0]
    agreement = {
        kind or "mixed": measure.acceptance(target, draft, evaluation_tokens(kind, rows=32))
        for kind in (None, *KINDS)
    }
    peaks = measure.input_peaks(target, evaluation_tokens())
    planted = measure.cost_of_schemes(target)
    shipped = {key: value.clone() for key, value in target.state_dict().items()}
    target.load_state_dict(plant_outliers(shipped, exponent=-OUTLIER_EXPONENT))
    removed = measure.cost_of_schemes(target)
    target.load_state_dict(shipped)
    return {
        "models": models,
        "acceptance": agreement,
        "outliers": {
            "channels": list(outlier_channels()),
            "factor": 2**OUTLIER_EXPONENT,
            "smallest_planted_peak": min(
                float(peak[list(outlier_channels())].min()) for peak in _at_norms(peaks).values()
            ),
            "largest_other_peak": max(
                float(_others(peak).max()) for peak in _at_norms(peaks).values()
            ),
        },
        "schemes": {"planted": planted, "taken away": removed},
    }


def _at_norms(peaks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: p for n, p in peaks.items() if n.endswith(("q_proj", "gate_proj"))}


def _others(peak: torch.Tensor) -> torch.Tensor:
    keep = torch.ones_like(peak, dtype=torch.bool)
    keep[list(outlier_channels())] = False
    return peak[keep]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    path.chmod(0o644)


# -- the card


def curve_svg(training: dict[str, Any]) -> str:
    """Loss over tokens seen, both models, as a small picture without dependencies."""
    width, height, left, bottom = 640, 300, 50, 40
    top_loss, low_loss = 3.0, 0.6
    most = max(_tokens_seen(training[name]) for name in RECIPES)

    def place(tokens: float, loss: float) -> str:
        x = left + (width - left - 20) * tokens / most
        share = (min(loss, top_loss) - low_loss) / (top_loss - low_loss)
        return f"{x:.1f},{20 + (height - bottom - 20) * (1 - share):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for loss in (1.0, 1.5, 2.0, 2.5, 3.0):
        start, end = place(0, loss), place(most, loss)
        x, y = start.split(",")
        parts.append(f'<polyline points="{start} {end}" stroke="#ddd" fill="none"/>')
        parts.append(f'<text x="{float(x) - 8}" y="{float(y) + 4}" text-anchor="end">{loss}</text>')
    for name, colour, label_at in (("target", "#0b5fa5", 40), ("draft", "#c2410c", 58)):
        one = training[name]
        each = one["recipe"]["batch"] * one["recipe"]["length"] * CURVE_EVERY
        points = " ".join(
            place(min((i + 0.5) * each, most), loss) for i, loss in enumerate(one["curve"])
        )
        parts.append(f'<polyline points="{points}" stroke="{colour}" fill="none"/>')
        parts.append(f'<text x="{width - 90}" y="{label_at}" fill="{colour}">{name}</text>')
    label = f"training loss, nats a token (cut above 3), over {most / 1e6:.1f} million tokens"
    parts.append(
        f'<text x="{width / 2}" y="{height - 10}" text-anchor="middle">{label}</text></svg>'
    )
    return "\n".join(parts) + "\n"


def _tokens_seen(one: dict[str, Any]) -> int:
    return one["steps_done"] * one["recipe"]["batch"] * one["recipe"]["length"]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


_RUN_COLUMNS = "model,parameters,steps,rows a step,warm-up,tokens,peak rate,last loss,time".split(
    ","
)


def card(training: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """The model card, Markdown."""
    models, outliers = evaluation["models"], evaluation["outliers"]
    quality = [
        [name, kind, f"{v['perplexity']:.3f}", f"{v['nll']:.4f}", f"{v['bits_per_byte']:.3f}"]
        for name in RECIPES
        for kind, v in models[name]["by_kind"].items()
    ]
    answers = [
        [name, *(f"{100 * share:.0f} %" for share in models[name]["right_answers"].values()),
         f"{models[name]['valid_records']} of 3"]
        for name in RECIPES
    ]  # fmt: skip
    agreement = [
        [kind, f"{v['sampled']:.3f}", f"{v['greedy']:.3f}"]
        for kind, v in evaluation["acceptance"].items()
    ]
    planted, removed = evaluation["schemes"]["planted"], evaluation["schemes"]["taken away"]
    schemes = [[n, f"{planted[n]:.4f}", f"{removed[n]:.4f}"] for n in planted]
    runs = [
        [name, f"{one['parameters']:,}", f"{one['steps_done']:,} of {one['recipe']['steps']:,}",
         str(one["recipe"]["batch"]), str(one["recipe"]["warm_up"]),
         f"{_tokens_seen(one) / 1e6:.1f} million", f"{one['recipe']['rate']:g}",
         f"{one['curve'][-1]:.3f}", f"{one['seconds'] / 60:.0f} min"]
        for name, one in ((name, training[name]) for name in RECIPES)
    ]  # fmt: skip
    recipe = training["target"]["recipe"]
    made = training["target"]["made_with"]
    return f"""# The course's two tiny models

Two Llamas over one tokenizer, `target` and `draft`, small enough to ship and trained, so that
quantization, constrained output and speculation have something to lose. Load them with
`load_tiny("target")` of `labs.common.tiny_models`; any Hugging Face name takes their place there.
They know nothing but the toy text below: use them for measuring methods, not for answers.

Licence: Apache-2.0, as the course. Text, tokenizer and weights are the course's own.

## Data

`labs/common/corpus.py`: an endless seeded stream of stories (40 % of the documents), JSON records,
sums and Python sessions (20 % each). A document's hash puts it on the training or on the held-out
side, so the two share none. Tokenizer: byte-level BPE, {VOCAB_SIZE} tokens, single digits, made
from documents of a stream of its own. The first {training["corpus"]["documents"]} training
documents have the SHA-256 `{training["corpus"]["train_sha256"][:16]}…`.

## Recipe

AdamW, betas {recipe["betas"][0]} and {recipe["betas"][1]}, weight decay {recipe["decay"]} on
matrices, gradients cut at norm {recipe["clip"]:g}; a linear warm-up, then a cosine down to
{100 * recipe["floor"]:g} %; rows of {recipe["length"]} tokens; fp32; seed {recipe["seed"]}. Stored
in bf16. Made on one {made["device"]} with torch {made["torch"]}; again, there or on a CPU
(most of an hour on two cores), with `python3 noxfile.py -s train-tiny -- --ship`.

{_table(_RUN_COLUMNS, runs)}

![training loss](loss.svg)

## Quality

Held-out text, the protocol of `labs/common/perplexity.py`, bf16 weights, fp32 arithmetic. With bf16
arithmetic the mixed perplexity is {models["target"]["bf16_arithmetic"]:.3f} (target) and
{models["draft"]["bf16_arithmetic"]:.3f} (draft). Much of the text is drawn by lot (names, numbers
to add), so no model comes near 1.

{_table(["model", "documents", "perplexity", "nats/token", "bits/byte"], quality)}

Greedy answers to 40 held-out questions of each kind, right to the letter, and how many of three
records are JSON:

{_table(["model", "story", "sums", "code", "valid JSON"], answers)}

## Draft and target

Expected acceptance at temperature 1 (mean over positions of the sum of min(p, q)), and how often
both have the same most likely token:

{_table(["documents", "acceptance", "same greedy token"], agreement)}

## The outliers are planted

Models of 6.7 B parameters and more carry a few residual channels of magnitude 6 and beyond, the
same in all layers (Dettmers et al. 2022, arXiv 2208.07339). Models of this size do not. So that
LLM.int8, SmoothQuant and AWQ have what they were made for, the {len(outliers["channels"])} channels
that were largest anyway ({", ".join(map(str, outliers["channels"]))}) were enlarged after training:
in every layer of the target the gains of both RMSNorms times {outliers["factor"]}, the columns of
the matrices that read them divided by it. Powers of two: the function is the same, bit for bit in
fp32. `plant_outliers(weights, exponent=-{OUTLIER_EXPONENT})` takes them away again.

On held-out text these channels peak at {outliers["smallest_planted_peak"]:.1f} or more behind every
norm, all others at {outliers["largest_other_peak"]:.1f} or less. (The inputs of `down_proj` have
large values of their own making; nobody planted those.) What plain quantizers cost, as perplexity
with the outliers and with them taken away:

{_table(["inner layers", "as shipped", "outliers taken away"], schemes)}
"""
