"""Hidden tests of lab 02's GPU tier: predictions against memory and time measured by the oracle.

The submission predicts; the oracle's own small engine is what is measured. Nothing here times or
weighs a submission, so there is nothing to be gained by speed.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
from typing import Any

import pytest
import torch

from graders.hidden.graphs import graphed
from graders.lab02.engine import Engine
from graders.oracle import gpu as machine
from labs.common.hardware import Gpu
from labs.common.models import ModelConfig
from labs.common.serving import ServingPlan
from labs.common.units import GB

MEMORY_TOLERANCE = 0.02
LEAST_SHARE = 0.25  # of a measured time that a floor must explain


def config_of(seed: int, **changes: Any) -> ModelConfig:
    """A Llama-shaped model of some hundred million parameters."""
    rng = random.Random(seed)
    config = ModelConfig(
        name="A model",
        key="measured",
        vocab_size=1000 * rng.randrange(24, 40),
        hidden_size=2048,
        num_layers=rng.randrange(6, 10),
        num_attention_heads=16,
        num_kv_heads=4,
        head_dim=128,
        intermediate_size=256 * rng.randrange(24, 36),
        max_position_embeddings=16384,
    )
    return dataclasses.replace(config, **changes)


# name: changes of the model, requests, context, tokens of one pass. Each makes another part large.
MEMORY_CASES: dict[str, tuple[dict[str, int], int, int, int]] = {
    "cache": ({}, 24, 4096, 256),
    "activations": ({}, 2, 512, 16384),
    "logits": ({"vocab_size": 128256, "num_layers": 2}, 3000, 16, 64),
    "mha": ({"num_kv_heads": 16}, 8, 2048, 8192),
}


def measured_memory(config: ModelConfig, batch: int, context: int, tokens: int, device: str) -> int:
    """Peak bytes of the engine: weights, cache, and the larger of a prefill and a row of logits."""
    scratch = torch.ones(64, 64, dtype=torch.bfloat16, device=device)
    scratch @ scratch  # libraries take their workspace before the count starts
    machine.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    engine = Engine(config, batch, context, device)
    engine.prefill(tokens)
    last = torch.ones(batch, config.hidden_size, dtype=torch.bfloat16, device=device)
    engine.logits(last)
    machine.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@pytest.mark.task("gpu_memory", weight=2)
@pytest.mark.parametrize("case", MEMORY_CASES)
def test_memory_measured(student, check, note, device, rng_seed, case):
    """Predicted memory is within 2 % of what the allocator counted."""
    changes, batch, context, tokens = MEMORY_CASES[case]
    config = config_of(rng_seed, **changes)
    plan = ServingPlan(block_size=1, max_tokens=tokens)
    predicted = student.fit.memory_bytes(config, plan, batch, context)
    measured = measured_memory(config, batch, context, tokens, device)
    check.number(predicted, float(measured), rel=MEMORY_TOLERANCE, given={"largest part": case})
    note(
        f"{case}: predicted {predicted / GB:.3f} GB, measured {measured / GB:.3f} GB "
        f"({predicted / measured - 1:+.1%})",
        name=f"gpu_memory {case}",
        predicted_bytes=predicted,
        measured_bytes=measured,
    )


def this_machine(device: str) -> Gpu:
    """The GPU at hand with its measured rates in place of a datasheet's."""
    facts = machine.device_facts(device)
    return Gpu(
        name=str(facts["device"]),
        key="measured",
        marketed_gb=0,
        memory_bytes=int(facts.get("memory_bytes", 0)),  # type: ignore[arg-type]
        memory_bandwidth=machine.copy_bandwidth(device),
        interconnect="none",
        interconnect_bandwidth=1.0,
        source="measured by the grader",
        date="-",
        dense_flops={"bf16": machine.matmul_rate(device)},
    )


# name: phase, batch, tokens. Weights alone, the cache above all, both, and arithmetic.
TIME_CASES = {
    "decode, batch 1": ("decode", 1, 128),
    "decode, batch 32 at 8192": ("decode", 32, 8192),
    "decode, batch 128 at 1024": ("decode", 128, 1024),
    "prefill of 8192": ("prefill", 1, 8192),
}


@pytest.mark.task("gpu_decode", weight=2)
@pytest.mark.parametrize("case", TIME_CASES)
def test_time_measured(student, check, note, device, rng_seed, case):
    """A predicted time is a floor: never above the measured one, and a good part of it."""
    phase, batch, tokens = TIME_CASES[case]
    config, card = config_of(rng_seed), this_machine(device)
    predict = getattr(student.phases, f"{phase}_time")
    predicted = predict(config, card, ServingPlan(), tokens, batch)
    engine = Engine(config, batch, tokens, device)
    ids = torch.randint(config.vocab_size, (batch,), device=device)
    if phase == "decode":
        step = graphed(lambda: engine.decode(ids), device)
    else:
        step = graphed(lambda: engine.logits(engine.prefill(tokens)), device)
    samples = machine.device_times(step, device)
    measured = statistics.median(samples)
    given = {"case": case, "measured": f"{measured * 1e3:.3f} ms"}
    check.number(predicted, measured, rel=float("inf"), given=given)
    check.true(
        predicted <= machine.ROOFLINE_MARGIN * measured,
        "the floor lies above a measured time",
        given=given, expected=f"at most {measured * 1e3:.3f} ms", got=f"{predicted * 1e3:.3f} ms",
    )  # fmt: skip
    check.true(
        predicted >= LEAST_SHARE * measured,
        "the floor explains too little of a measured time: it leaves something out",
        given=given, expected=f"at least {LEAST_SHARE * measured * 1e3:.3f} ms",
        got=f"{predicted * 1e3:.3f} ms",
    )  # fmt: skip
    note(
        f"{case}: floor {predicted * 1e3:.3f} ms, measured {measured * 1e3:.3f} ms, "
        f"{predicted / measured:.0%} of the roofline reached",
        name=f"gpu_decode {case}",
        predicted_s=predicted,
        samples_s=samples,
        copy_bandwidth=card.memory_bandwidth,
        matmul_rate=card.dense_flops["bf16"],
    )
