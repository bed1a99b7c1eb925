"""The lab's pictures, drawn from the numbers that your functions return.

Each function takes the lab's package, its modules imported, and returns a matplotlib figure. The
notebook shows them; the grader draws the same ones into the HTML report.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labs.common.linears import inner_linears, linear_inputs
from labs.common.perplexity import calibration_tokens, evaluation_tokens
from labs.common.tiny_models import load_tiny

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280")
METHODS = (
    "int8", "fp8", "int4", "int4-zp", "gptq", "awq", "nf4", "nf4-dq", "w8a8", "smoothquant",
    "llm_int8",
)  # fmt: skip
ROWS = 8  # of held-out text: enough for the picture; the table in the terminal takes 96
LAYER = "model.layers.2.self_attn.q_proj"


def _axes(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(True, which="major", alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _number(value: Any) -> float:
    """``value`` if it is a number, so that a picture never shows anything else."""
    if type(value) not in (int, float):
        raise TypeError(f"a plot needs numbers, not a {type(value).__name__}")
    return float(value)


_KEPT: list[list[dict[str, float]]] = []


def rows(student: Any) -> list[dict[str, float]]:
    """The submission's table over a little text, bf16 first; measured once."""
    if not _KEPT:
        found = student.compare.table(
            ["bf16", *METHODS], evaluation_tokens(rows=ROWS), calibration_tokens(4, 128)
        )
        names = ("bits", "layer_error", "perplexity")
        _KEPT.append([{name: _number(row[name]) for name in names} for row in found])
    return _KEPT[0]


def bits_against_perplexity(student: Any) -> Figure:
    """What each method costs in quality over what it stores; bf16 is the dashed line."""
    base, *found = rows(student)
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    _axes(
        axes, f"The tiny target on {ROWS} rows of held-out text: bits against perplexity",
        "bits a weight of the inner linear layers", "perplexity",
    )  # fmt: skip
    axes.axhline(base["perplexity"], color="#4a5568", linestyle="--", linewidth=0.8)
    axes.text(6.1, base["perplexity"], "bf16, 16 bits", fontsize=8, va="bottom")
    # Labels stand in two columns, right of the 4-bit points and right of the 8-bit ones, and make
    # room for each other: several methods come out nearly alike.
    largest = max(row["perplexity"] for row in (base, *found))
    room = 0.045 * (largest - min(row["perplexity"] for row in (base, *found)))
    for colour, few in ((COLOURS[0], True), (COLOURS[1], False)):
        points = sorted(
            (row["perplexity"], row["bits"], name)
            for name, row in zip(METHODS, found, strict=True)
            if (row["bits"] < 6) is few
        )
        height = float("-inf")
        for perplexity, bits, name in points:
            axes.plot(bits, perplexity, "o", color=colour, markersize=5)
            height = max(perplexity, height + room)
            axes.annotate(
                name, (bits, perplexity), xytext=(4.75 if few else 8.4, height), va="center",
                fontsize=8, arrowprops={"arrowstyle": "-", "color": "#a0aec0", "linewidth": 0.6},
            )  # fmt: skip
    axes.set_xlim(3.2, 9.2)
    return figure


def layer_error_by_method(student: Any) -> Figure:
    """Mean relative error of a layer's outputs, the best method at the top."""
    _, *found = rows(student)
    pairs = sorted(zip(METHODS, found, strict=True), key=lambda pair: -pair[1]["layer_error"])
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    _axes(axes, "Mean error of a layer's outputs", "percent of their norm", "")
    values = [100 * row["layer_error"] for _, row in pairs]
    colours = [COLOURS[0] if row["bits"] < 6 else COLOURS[1] for _, row in pairs]
    bars = axes.barh([name for name, _ in pairs], values, color=colours)
    axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.text(
        0.98, 0.9, "blue: about 4 bits, brown: 8", transform=axes.transAxes, ha="right", fontsize=8
    )
    return figure


@functools.cache
def _layer() -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's weight, and what it reads of a little text."""
    model, _ = load_tiny("target")
    inputs = linear_inputs(model, calibration_tokens(2, 128))
    return inner_linears(model)[LAYER].weight.detach(), inputs[LAYER]


def code_books(student: Any) -> Figure:
    """Weights over the numbers of three four-bit grids, and activations with their outliers."""
    w, x = _layer()
    book = student.nf4.code_book().double()
    figure = Figure(figsize=(7.5, 6.4), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    _axes(
        top, f"{LAYER}: weights over their block's largest, and three grids",
        "weight / largest of its block of 64", "share",
    )  # fmt: skip
    blocks = w.reshape(-1, 64)
    scaled = (blocks / blocks.abs().amax(1, keepdim=True)).flatten()
    top.hist(scaled.tolist(), bins=120, density=True, color="#cbd5e0")
    grids = {
        "NF4": book,
        "INT4, symmetric": (torch.arange(16) - 8) / 7.5,
        "FP4 (E2M1)": torch.tensor([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])
        / 6,
    }
    high = top.get_ylim()[1]
    for (name, grid), colour, level in zip(
        grids.items(), COLOURS, (0.97, 0.87, 0.77), strict=False
    ):
        top.plot(
            grid.tolist(), [high * level] * len(grid), "|", color=colour, markersize=12, label=name
        )
    top.legend(fontsize=8, frameon=False, loc="center right")
    _axes(
        bottom, "What the layer reads: the largest magnitude of each channel",
        "channel", "largest magnitude",
    )  # fmt: skip
    largest = x.abs().amax(0)
    bottom.bar(range(len(largest)), largest.tolist(), width=1.0, color=COLOURS[1])
    bottom.axhline(6.0, color="#4a5568", linestyle="--", linewidth=0.8)
    bottom.text(0, 6.6, "threshold of LLM.int8", fontsize=8)
    bottom.set_yscale("log")
    return figure
