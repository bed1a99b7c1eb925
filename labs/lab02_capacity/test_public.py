"""Public tests of lab 02: small models whose numbers fit on paper, and a few that are published."""

from __future__ import annotations

import pytest

from labs.common.formats import FORMATS
from labs.common.hardware import Gpu, gpu
from labs.common.instances import Instance
from labs.common.models import ModelConfig, model
from labs.common.serving import ServingPlan, Work

BF16 = FORMATS["bf16"]
# Vocabulary 10, hidden size 4, 1 layer, 2 query heads and 1 KV head of 2 channels, MLP of 3.
PAPER = ModelConfig("paper", "paper", 10, 4, 1, 2, 1, 2, 3)


@pytest.mark.task("parameters")
def test_groups_on_paper(student, check):
    """A model small enough to count by hand has the counts of a hand."""
    expected = {
        "embedding": 10 * 4,
        "attention": 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4,  # q, k, v, o
        "mlp": 3 * 4 * 3,
        "router": 0,
        "norm": 3 * 4,
        "bias": 0,
        "head": 10 * 4,
    }
    check.equal(student.parameters.parameter_groups(PAPER), expected, given={"config": PAPER})


@pytest.mark.task("parameters")
def test_llama_3_8b(student, check):
    """Llama 3 8B has 8,030,261,248 parameters, all of them active."""
    config = model("llama-3-8b")
    check.equal(
        student.parameters.total_parameters(config), 8_030_261_248, given={"model": config.key}
    )
    check.equal(
        student.parameters.active_parameters(config), 8_030_261_248, given={"model": config.key}
    )


@pytest.mark.task("weights")
def test_bits_per_number(student, check):
    """NF4 with a 32-bit scale for 64 weights takes 4.5 bits a weight."""
    check.number(student.weights.bits_per_number(FORMATS["nf4"]), 4.5, given={"format": "nf4"})


@pytest.mark.task("weights")
def test_llama_3_8b_bytes(student, check):
    """Llama 3 8B in BF16 weighs 16,060,522,496 bytes: 16.06 GB, which is 14.96 GiB."""
    got = student.weights.weight_bytes(model("llama-3-8b"), BF16)
    check.equal(got, 16_060_522_496, given={"model": "llama-3-8b", "format": "bf16"})


@pytest.mark.task("kv_cache")
@pytest.mark.parametrize(
    "key, expected", [("llama-2-7b", 524_288), ("llama-3-8b", 131_072), ("deepseek-v3", 70_272)]
)
def test_kv_published(student, check, key, expected):
    """A token's cache in BF16 has the published size, for MHA, GQA and MLA."""
    got = student.kv_cache.kv_bytes_per_token(model(key), BF16)
    check.number(got, expected, given={"model": key})


@pytest.mark.task("kv_cache")
def test_request_takes_whole_blocks(student, check):
    """17 tokens take two blocks of 16."""
    got = student.kv_cache.kv_bytes_per_request(model("llama-3-8b"), 17, BF16, 16)
    check.equal(got, 32 * 131_072, given={"context": 17, "block_size": 16})


@pytest.mark.task("parallel")
def test_legal_degrees(student, check):
    """Llama 3 8B (32 query heads, 8 KV heads) splits over 16 GPUs, too: each KV head on two."""
    got = student.parallel.legal_tp(model("llama-3-8b"), 16)
    check.equal(got, [1, 2, 4, 8, 16], given={"model": "llama-3-8b", "max_degree": 16})
    check.equal(student.parallel.kv_copies(model("llama-3-8b"), 16), 2, given={"tp": 16})


@pytest.mark.task("fit")
def test_activations_on_paper(student, check):
    """The peak is the largest of three moments: here the logits of two sequences."""
    # Attention: 2*4 + 2*(2+2) + 1*(2+2) = 20 numbers a token; MLP: 2*4 + 3*3 = 17.
    # Head: 4 * 16 + 10 * 32 = 384 bits a sequence.
    fit = student.fit
    check.equal(fit.activation_bytes(PAPER, 1, 2), 96, given={"tokens": 1, "sequences": 2})
    check.equal(fit.activation_bytes(PAPER, 5, 1), 200, given={"tokens": 5, "sequences": 1})


@pytest.mark.task("fit")
def test_a_model_too_large_fits_no_request(student, check):
    """70B parameters in BF16 do not fit one H100: the largest batch is 0."""
    got = student.fit.max_batch(model("llama-3-70b"), gpu("h100-sxm"), ServingPlan(), 4096)
    check.equal(got, 0, given={"model": "llama-3-70b", "gpu": "h100-sxm"})


ROUND_GPU = Gpu("Round", "round", 1, 10**9, 100.0, "none", 10.0, "made up", "-", {"bf16": 1000.0})


@pytest.mark.task("roofline")
def test_step_time(student, check):
    """The longer of arithmetic and traffic counts; at the ridge they are equal."""
    roofline = student.roofline
    check.number(roofline.ridge_point(ROUND_GPU), 10.0, given={"peak": 1000, "bandwidth": 100})
    check.number(
        roofline.step_time(Work(500.0, 100.0), ROUND_GPU), 1.0, given={"work": "500 / 100"}
    )
    check.number(
        roofline.step_time(Work(5000.0, 100.0), ROUND_GPU), 5.0, given={"work": "5000 / 100"}
    )
    check.equal(roofline.bound(Work(500.0, 100.0), ROUND_GPU), "memory", given={"intensity": 5})


@pytest.mark.task("phases")
def test_decode_on_paper(student, check):
    """One decode step moves weights and cache once, and does two FLOPs a weight."""
    work = student.phases.decode_work(PAPER, ServingPlan(), 7, 1)
    # Weights read: attention 48, MLP 36, norms 12, head 40; cache: 7 entries of 4 numbers.
    check.number(work.bytes, 2 * (48 + 36 + 12 + 40) + 2 * 7 * 4, given={"context": 7})
    # 2 * (48 + 36 + 40), and 2 heads * 7 keys * 2 * (2 + 2) channels.
    check.number(work.flops, 2 * (48 + 36 + 40) + 2 * 7 * 2 * 4, given={"context": 7})


@pytest.mark.task("cost")
def test_dollars(student, check):
    """3.60 dollars an hour at 1000 tokens a second are 1 dollar per million."""
    got = student.cost.dollars_per_million(3.6, 1000.0)
    check.number(got, 1.0, given={"dollars_per_hour": 3.6, "tokens_per_s": 1000})


@pytest.mark.task("placement")
def test_nothing_fits(student, check):
    """405B parameters in BF16 have no place on one L4: None, not a price."""
    one = Instance("one", "l4", 1, 1.0)
    plan = ServingPlan()
    got = student.placement.place(model("llama-3-405b"), one, plan, 100, 100, 1.0, 1.0)
    check.equal(got, None, given={"model": "llama-3-405b", "gpu": "l4"})


@pytest.mark.task("gpu_memory")
def test_memory_grows_with_the_batch(student, check):
    """A second request adds its cache, and at least one more row of logits where those decide."""
    config, plan = model("qwen3-0.6b"), ServingPlan(block_size=1, max_tokens=1)
    one, two = (student.fit.memory_bytes(config, plan, batch, 100) for batch in (1, 2))
    expected = 100 * 114_688 + config.vocab_size * 4 + config.hidden_size * 2
    check.equal(two - one, expected, given={"model": config.key, "context": 100})


@pytest.mark.task("gpu_decode")
def test_floor_is_a_lower_bound(student, check):
    """No decode step takes less than its floor."""
    config, plan = model("llama-3-8b"), ServingPlan()
    floor = student.phases.decode_floor(config, gpu("h200"), plan)
    step = student.phases.decode_time(config, gpu("h200"), plan, 4096)
    check.true(0 < floor < step, "the floor lies below the step", expected=step, got=floor)
