"""The lab's pictures, drawn from the numbers that your functions return.

Each function takes the lab's package, its modules imported, and returns a matplotlib figure. The
notebook shows them; the grader draws the same ones into the HTML report.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labs.common.hardware import gpu
from labs.common.models import model
from labs.common.serving import ServingPlan, Work
from labs.common.units import GIB

MODEL = "llama-3-8b"
CONTEXT = 2048
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280")


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(True, which="major", alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _number(value: Any) -> float:
    """``value`` if it is a number, so that a picture never shows anything else."""
    if type(value) not in (int, float):
        raise TypeError(f"a plot needs numbers, not a {type(value).__name__}")
    return float(value)


def roofline(student: Any) -> Figure:
    """Two roofs in BF16, and where prefill and decode of Llama 3 8B lie under one of them."""
    config, plan, card = model(MODEL), ServingPlan(), gpu("h100-sxm")
    figure, axes = _axes(
        f"{config.name}, BF16: prefill and decode under the roof of an {card.name}",
        "intensity, FLOP per byte",
        "TFLOP/s",
    )
    intensities = [2 ** (n / 4) for n in range(-4, 57)]
    for key, style in (("h100-sxm", "-"), ("l4", "--")):
        roof = [
            _number(student.roofline.attainable_flops(gpu(key), x, "bf16")) / 1e12
            for x in intensities
        ]
        axes.plot(intensities, roof, style, color="#4a5568", label=f"roof of {gpu(key).name}")
    ridge = _number(student.roofline.ridge_point(card, "bf16"))
    axes.axvline(ridge, color="#4a5568", linewidth=0.6, linestyle=":")
    axes.annotate(f"ridge {ridge:.0f}", (ridge, 1), textcoords="offset points", xytext=(4, 0))

    def point(work: Work) -> tuple[float, float]:
        seconds = _number(student.roofline.step_time(work, card, "bf16"))
        return _number(student.roofline.intensity(work)), work.flops / seconds / 1e12

    series = {
        f"decode, context {CONTEXT}, batch 1, 8, 64, 512": [
            point(student.phases.decode_work(config, plan, CONTEXT, batch))
            for batch in (1, 8, 64, 512)
        ],
        "prefill of 32, 128, 512, 2048 tokens": [
            point(student.phases.prefill_work(config, plan, prompt, 1))
            for prompt in (32, 128, 512, 2048)
        ],
    }
    for (label, points), colour in zip(series.items(), COLOURS, strict=False):
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=5, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def memory_over_context(student: Any) -> Figure:
    """Memory of one GPU over context for several batches, against what three GPUs have."""
    config, plan = dataclasses.replace(model(MODEL), max_position_embeddings=131072), ServingPlan()
    figure, axes = _axes(
        f"{config.name}, BF16: memory of one GPU over context",
        "context of each request, tokens",
        "GiB",
    )
    contexts = [2**n for n in range(9, 18)]
    for batch, colour in zip((1, 4, 16, 64), COLOURS, strict=False):
        need = [
            _number(student.fit.memory_bytes(config, plan, batch, context)) / GIB
            for context in contexts
        ]
        label = f"{batch} request{'s' if batch > 1 else ''}"
        axes.plot(contexts, need, "o-", color=colour, markersize=3.5, label=label)
    weights = _number(student.weights.weight_bytes(config, plan.weights)) / GIB
    axes.axhline(weights, color="#a0aec0", linestyle="--", linewidth=1, label="weights alone")
    for key in ("l4", "h100-sxm", "h200"):
        limit = plan.utilization * gpu(key).memory_bytes / GIB
        axes.axhline(limit, color="#4a5568", linewidth=0.8)
        axes.text(
            contexts[0],
            limit * 1.04,
            f"{plan.utilization:.0%} of {gpu(key).name}",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_ylim(8, 1024)
    axes.set_xticks(contexts, [f"{c // 1024} Ki" if c >= 1024 else str(c) for c in contexts])
    ticks = [2**n for n in range(3, 11)]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.02, 0.97))
    return figure


def throughput_over_latency(student: Any) -> Figure:
    """Tokens per second of one GPU against tokens per second of one user, over the batch."""
    config, plan = model(MODEL), ServingPlan()
    figure, axes = _axes(
        f"{config.name}, BF16, context {CONTEXT}: what batching buys, and what it costs a user",
        "tokens per second for each user (1 / TPOT)",
        "tokens per second of the GPU",
    )
    for key, colour in zip(("l4", "a100-80", "h100-sxm", "h200"), COLOURS, strict=False):
        card = gpu(key)
        most = int(_number(student.fit.max_batch(config, card, plan, CONTEXT)))
        batches = [b for b in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if b < most]
        batches += [most] if most else []
        points = []
        for batch in batches:
            seconds = _number(student.phases.decode_time(config, card, plan, CONTEXT, batch))
            points.append((1 / seconds, batch / seconds))
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, "o-", color=colour, markersize=4, label=f"{card.name}: {most} fit")
    axes.set_yscale("log")
    axes.legend(fontsize=8, frameon=False)
    return figure
