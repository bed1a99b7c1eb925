"""Figures in lab 03's handout that no session prints: they are those of the recorded runs."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from labs.common.linears import inner_linears
from labs.common.tiny_models import load_tiny

ROOT = Path(__file__).resolve().parents[2]
HANDOUT = (ROOT / "labs" / "lab03_quantization" / "README.md").read_text(encoding="utf-8")


def recorded(name: str) -> Any:
    path = ROOT / "content" / "measurements" / f"2026-11-25-{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def table(first_heading: str) -> list[list[str]]:
    """The cells below the table whose header begins with this."""
    (block,) = re.findall(rf"^\| {first_heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", HANDOUT, re.M)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]


def test_the_table_of_methods_is_the_recorded_one() -> None:
    rows = [
        [
            row["method"], f"{row['bits']:.3f}", f"{100 * row['layer_error']:.1f} %",
            f"{row['perplexity']:.4f}",
        ]
        for row in recorded("lab03-table-cpu")
    ]  # fmt: skip
    assert table("method") == rows


def test_the_recorded_bytes_are_of_the_shipped_model() -> None:
    weights = sum(layer.weight.numel() for layer in inner_linears(load_tiny()[0]).values())
    for row in recorded("lab03-table-cpu"):
        assert row["bits"] == pytest.approx(8 * row["bytes"] / weights)
    assert recorded("lab03-table-cpu")[0]["bytes"] == weights * torch.bfloat16.itemsize


def test_the_kernels_figures_are_the_recorded_ones() -> None:
    found = recorded("int4_kernel-h200")
    names = {
        "the solution, one launch for all": "ours stacked default",
        "the solution, a launch each": "ours alone default",
        "torch's int4": "torch int4",
        "bitsandbytes NF4": "bitsandbytes NF4",
        "cuBLAS bf16": "cuBLAS bf16",
    }
    one, many = (found[f"[4096, 14336] batch {batch}"] for batch in (1, 16))

    def ratio(at: dict[str, Any], name: str) -> str:
        return f"{at['cuBLAS bf16']['median_s'] / at[name]['median_s']:.2f}"

    def microseconds(at: dict[str, Any], name: str) -> str:
        return f"{1e6 * at[name]['median_s']:.1f}"

    assert table("batch 1") == [
        [title, microseconds(one, name), f"{one[name]['fraction']:.2f}", ratio(one, name)]
        for title, name in names.items()
    ]
    text = " ".join(HANDOUT.split())
    stacked = "ours stacked default"
    for said in (
        f"takes {microseconds(many, stacked)} µs, {ratio(many, stacked)} times as fast as cuBLAS",
        f"torch's int4 takes {microseconds(many, 'torch int4')} µs",
        f"bitsandbytes {microseconds(many, 'bitsandbytes NF4')} µs",
    ):
        assert said in text, said
    graded = recorded("lab03-h200")["measurements"]["int4_kernel batch 1"]
    said = f"{graded['fraction']:.2f} of copy bandwidth and {graded['ratio']:.2f} times cuBLAS"
    assert said in text, said
    draft = recorded("int4_triton-h200")["14336x4096"]["1"]["best"][0][0]
    assert f"in Triton took {draft:.1f} µs at 14336 × 4096" in text


def test_the_libraries_memory_is_the_recorded_one() -> None:
    layers = recorded("bitsandbytes-h200")["layers"]
    rows = [
        layers[name]
        for name in (
            "nn.Linear bf16",
            "Linear4bit nf4",
            "Linear4bit nf4, double",
            "Linear8bitLt, threshold 6",
        )
    ]
    whole, nf4, double, int8 = (f"{row['bytes_a_layer'] / 1e6:.1f} MB" for row in rows)
    times = [f"{1e6 * statistics.median(row['batch 1']):.0f}" for row in rows]
    text = " ".join(HANDOUT.split())
    assert f"for the {whole} of that matrix in bf16, {nf4} in NF4, {double} with double" in text
    assert f"and {int8} in LLM.int8" in text
    assert f"took {', '.join(times[:3])} and {times[3]} µs" in text
