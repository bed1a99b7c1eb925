"""Hidden tests of lab 02."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest

from graders.lab02 import reference
from labs.common.formats import FORMATS, Format
from labs.common.hardware import GPUS, Gpu, gpu
from labs.common.instances import INSTANCES, Instance
from labs.common.models import MODELS, PARAMETER_COUNTS, model
from labs.common.serving import ServingPlan, Work

BF16, INT4, DOUBLE = FORMATS["bf16"], FORMATS["int4-g128"], FORMATS["nf4-dq"]
# Powers of two only, so that bits per number are exact in floating point.
ODD = Format("odd", "An odd format", 5, "-", 32, 8, 2, 64, 16, 32)
REL = 1e-9

kinds = pytest.mark.parametrize("kind", reference.KINDS)


def gqa_config(heads: int, kv_heads: int, width: int):
    """A dense model with these heads and this MLP width."""
    base = reference.random_config("gqa", 0)
    return dataclasses.replace(
        base, num_attention_heads=heads, num_kv_heads=kv_heads, intermediate_size=width
    )


# -- parameters ------------------------------------------------------------------------------------


@pytest.mark.task("parameters", weight=3)
@kinds
def test_groups(student, check, rng_seed, kind):
    """Every group has exactly the parameters of the model that transformers builds."""
    config = reference.random_config(kind, rng_seed)
    got = student.parameters.parameter_groups(config)
    expected = reference.groups_on_meta(config)
    check.equal(list(got), list(reference.GROUPS), given={"config": reference.brief(config)})
    check.equal(got, expected, given={"config": reference.brief(config)})
    total = student.parameters.total_parameters(config)
    check.equal(total, sum(expected.values()), given={"config": reference.brief(config)})


@pytest.mark.task("parameters")
@pytest.mark.parametrize("key", MODELS)
def test_published_counts(student, check, key):
    """Published models have their published counts."""
    got = student.parameters.total_parameters(MODELS[key])
    check.equal(got, PARAMETER_COUNTS[key], given={"model": key})


@pytest.mark.task("parameters", weight=2)
@kinds
def test_active(student, check, rng_seed, kind):
    """Active parameters leave out the routed experts that a token is not sent to, nothing else."""
    config = reference.random_config(kind, rng_seed)
    got = student.parameters.active_parameters(config)
    check.equal(got, reference.active(config), given={"config": reference.brief(config)})


@pytest.mark.task("parameters")
def test_published_active(student, check):
    """Mixtral has 12,879,925,248 active parameters, Qwen3-30B-A3B 3,353,032,704."""
    got = [
        student.parameters.active_parameters(model(key))
        for key in ("mixtral-8x7b", "qwen3-30b-a3b")
    ]
    check.equal(got, [12_879_925_248, 3_353_032_704])


# -- weights ---------------------------------------------------------------------------------------


@pytest.mark.task("weights")
@pytest.mark.parametrize("fmt", [*FORMATS.values(), ODD], ids=lambda fmt: fmt.key)
def test_bits(student, check, fmt):
    """A number takes its bits and its share of scales, zero points and scales of scales."""
    got = student.weights.bits_per_number(fmt)
    check.number(got, float(reference.bits(fmt)), rel=REL, given={"format": fmt.key})


@pytest.mark.task("weights")
def test_matrix_bytes(student, check):
    """Bytes are rounded up, never down."""
    for count, expected in ((0, 0), (1, 1), (3, 2), (4, 2), (127, 64)):
        got = student.weights.matrix_bytes(count, dataclasses.replace(INT4, group_size=0))
        check.equal(got, expected, given={"count": count, "bits": 4})


@pytest.mark.task("weights", weight=3)
@kinds
@pytest.mark.parametrize("fmt", [BF16, FORMATS["fp32"], INT4, DOUBLE, ODD], ids=lambda fmt: fmt.key)
def test_weight_bytes(student, check, rng_seed, kind, fmt):
    """The format applies to the matrices of attention and MLP; everything else keeps its bits."""
    config = reference.random_config(kind, rng_seed)
    got = student.weights.weight_bytes(config, fmt)
    expected = float(reference.weight_bytes(config, fmt))
    given = {"format": fmt.key, "config": reference.brief(config)}
    check.number(got, expected, rel=0, abs=2, given=given)  # two roundings, up to a byte each


# -- kv_cache --------------------------------------------------------------------------------------


@pytest.mark.task("kv_cache", weight=2)
@kinds
def test_kv_elements(student, check, rng_seed, kind):
    """A token leaves a key and a value for each KV head, or MLA's latent and one rotated key."""
    config = reference.random_config(kind, rng_seed)
    got = student.kv_cache.kv_elements_per_token(config)
    check.equal(got, reference.kv_elements(config), given={"config": reference.brief(config)})


@pytest.mark.task("kv_cache")
@pytest.mark.parametrize("fmt", [BF16, FORMATS["fp8"], DOUBLE, ODD], ids=lambda fmt: fmt.key)
@pytest.mark.parametrize("kind", ["gqa", "mla", "window"])
def test_kv_bytes(student, check, rng_seed, kind, fmt):
    """A quantized cache pays for its scales."""
    config = reference.random_config(kind, rng_seed)
    expected = float(reference.kv_elements(config) * reference.bits(fmt) / 8)
    got = student.kv_cache.kv_bytes_per_token(config, fmt)
    check.number(got, expected, rel=REL, given={"format": fmt.key})


@pytest.mark.task("kv_cache", weight=2)
@pytest.mark.parametrize("kind", ["gqa", "mla", "window"])
@pytest.mark.parametrize("block", [1, 5, 16])
def test_kv_request(student, check, rng_seed, kind, block):
    """A request keeps what the window shows, in whole blocks."""
    config = reference.random_config(kind, rng_seed)
    for context, fmt in itertools.product((0, 1, block - 1, block, block + 1, 61), (BF16, ODD)):
        got = student.kv_cache.kv_bytes_per_request(config, context, fmt, block)
        expected = float(reference.request_bytes(config, context, fmt, block))
        given = {"context": context, "block_size": block, "window": config.sliding_window}
        check.number(got, expected, rel=0, abs=1, given=given)
        kept = student.kv_cache.cached_tokens(config, context)
        check.equal(kept, reference.kept(config, context), given=given)


@pytest.mark.task("kv_cache")
def test_kv_refuses(student, check):
    """Negative contexts and blocks of no token are refused."""
    config = model("llama-3-8b")
    with check.raises(ValueError, given={"context": -1}):
        student.kv_cache.cached_tokens(config, -1)
    with check.raises(ValueError, given={"context": -1}):
        student.kv_cache.kv_bytes_per_request(config, -1, BF16)
    with check.raises(ValueError, given={"block_size": 0}):
        student.kv_cache.kv_bytes_per_request(config, 5, BF16, 0)


# -- parallel --------------------------------------------------------------------------------------

SHAPES = [(12, 4, 72), (12, 12, 64), (24, 8, 48), (40, 10, 60), (6, 1, 36), (48, 8, 144)]


@pytest.mark.task("parallel", weight=2)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_legal_dense(student, check, shape):
    """Query heads, KV heads and MLP columns each allow some degrees; legal ones are in all sets."""
    config = gqa_config(*shape)
    expected = [degree for degree in range(1, 49) if reference.legal(config, degree)]
    given = dict(zip(("query heads", "KV heads", "MLP width"), shape, strict=True))
    check.equal(student.parallel.legal_tp(config, 48), expected, given=given)


@pytest.mark.task("parallel", weight=2)
@pytest.mark.parametrize("kind", ["moe", "moe_norm", "mla", "mla_direct", "plain"])
def test_legal_others(student, check, rng_seed, kind):
    """Experts split by their own width, dense layers by theirs; MLA's latent sets no condition."""
    for seed in range(rng_seed, rng_seed + 4):
        config = reference.random_config(kind, seed)
        expected = [degree for degree in range(1, 17) if reference.legal(config, degree)]
        given = {"config": reference.brief(config)}
        check.equal(student.parallel.legal_tp(config, 16), expected, given=given)


@pytest.mark.task("parallel")
def test_copies(student, check):
    """KV heads are copied only where there are fewer heads than GPUs; MLA's latent always."""
    config = model("llama-3-70b")
    got = [student.parallel.kv_copies(config, tp) for tp in (1, 2, 8, 16, 64)]
    check.equal(got, [1, 1, 1, 2, 8], given={"KV heads": 8, "tp": [1, 2, 8, 16, 64]})
    got = [student.parallel.kv_copies(model("deepseek-v3"), tp) for tp in (1, 8)]
    check.equal(got, [1, 8], given={"model": "deepseek-v3", "tp": [1, 8]})


@pytest.mark.task("parallel")
@pytest.mark.parametrize("tp", [0, 3, 128])
def test_illegal_degrees_are_refused(student, check, tp):
    """A degree that does not split the model is refused, wherever it is given."""
    config, parallel = model("llama-3-8b"), student.parallel
    for call in (
        lambda: parallel.kv_copies(config, tp),
        lambda: parallel.weight_bytes_per_gpu(config, BF16, tp),
        lambda: parallel.all_reduce_bytes(config, 1, tp),
    ):
        with check.raises(ValueError, given={"tp": tp}):
            call()


@pytest.mark.task("parallel")
@kinds
def test_weights_per_gpu(student, check, rng_seed, kind):
    """Norms and routers are on every GPU, everything else is split."""
    config = reference.random_config(kind, rng_seed)
    degrees = [degree for degree in range(1, 9) if reference.legal(config, degree)]
    for tp, fmt in itertools.product(degrees, (BF16, DOUBLE)):
        got = student.parallel.weight_bytes_per_gpu(config, fmt, tp)
        expected = float(reference.weight_bytes(config, fmt, tp))
        given = {"tp": tp, "format": fmt.key, "config": reference.brief(config)}
        check.number(got, expected, rel=0, abs=4, given=given)


@pytest.mark.task("parallel")
def test_ring(student, check):
    """Each GPU sends 2 (N - 1) / N of both all-reduces of each layer: none of it alone."""
    config, sent = model("llama-3-70b"), student.parallel.all_reduce_bytes
    for tp, share in ((1, 0), (2, 1.0), (4, 1.5), (8, 1.75)):
        check.number(sent(config, 1, tp), share * 2 * 80 * 8192 * 2, given={"tp": tp})
    check.number(sent(config, 7, 4, 8), 1.5 * 7 * 2 * 80 * 8192, given={"tokens": 7, "bits": 8})


# -- fit -------------------------------------------------------------------------------------------


@pytest.mark.task("fit", weight=2)
@kinds
def test_activations(student, check, rng_seed, kind):
    """Activations peak in attention, in the widest MLP, or in the logits: the largest counts."""
    config = reference.random_config(kind, rng_seed)
    for (tokens, sequences), bits, tp in itertools.product(
        ((1, 1), (64, 1), (3, 50)), (16, 32), (1, 2)
    ):
        got = student.fit.activation_bytes(config, tokens, sequences, bits, tp)
        expected = reference.activation_bytes(config, tokens, sequences, bits, tp)
        given = {"tokens": tokens, "sequences": sequences, "bits": bits, "tp": tp}
        given["config"] = reference.brief(config)
        check.number(got, float(expected), rel=0, abs=1, given=given)


@pytest.mark.task("fit")
def test_widest_layer_decides(student, check, rng_seed):
    """In an MoE model with dense layers the wider kind of layer decides, whichever it is."""
    config = reference.random_config("mla", rng_seed)
    for dense, expert in ((6000, 12), (12, 6000)):
        wide = dataclasses.replace(config, intermediate_size=dense, moe_intermediate_size=expert)
        got = student.fit.activation_bytes(wide, 10, 1)
        expected = float(reference.activation_bytes(wide, 10, 1))
        given = {"intermediate_size": dense, "moe_intermediate_size": expert}
        check.number(got, expected, rel=0, abs=1, given=given)


PLAN = ServingPlan(block_size=8, max_tokens=32)


def plans(config):
    """Plans that differ in formats, degree and block, legal for this model."""
    yield PLAN
    yield dataclasses.replace(PLAN, weights=DOUBLE, kv=FORMATS["fp8"], block_size=1)
    for tp in range(2, 9):
        if reference.legal(config, tp):
            yield dataclasses.replace(PLAN, tp=tp, utilization=0.5)
            return


@pytest.mark.task("fit", weight=2)
@kinds
def test_memory(student, check, rng_seed, kind):
    """A GPU holds its weights, its part of every request's cache, and one pass's activations."""
    config = reference.random_config(kind, rng_seed)
    for plan, (batch, context) in itertools.product(plans(config), ((0, 1), (1, 9), (13, 40))):
        got = student.fit.memory_bytes(config, plan, batch, context)
        expected = float(reference.memory(config, plan, batch, context))
        given = {"batch": batch, "context": context, "tp": plan.tp, "kv": plan.kv.key}
        check.number(got, expected, rel=0, abs=6 + 2 * batch, given=given)


def gpu_with(bytes_: float) -> Gpu:
    """A GPU with so much memory."""
    return dataclasses.replace(gpu("l4"), name="A GPU", key="a-gpu", memory_bytes=int(bytes_))


@pytest.mark.task("fit", weight=2)
@pytest.mark.parametrize("kind", ["gqa", "window", "moe", "mla", "plain"])
def test_max_batch(student, check, rng_seed, kind):
    """The largest batch fits, and one more request does not."""
    config = reference.random_config(kind, rng_seed)
    for plan, wanted in itertools.product(plans(config), (0, 1, 6, 29)):
        # Between two batches, clear of any rounding.
        low, high = (reference.memory(config, plan, wanted + more, 25) for more in (0, 1))
        card = gpu_with((low + high) / 2 / plan.utilization)
        got = student.fit.max_batch(config, card, plan, 25)
        given = {"memory": card.memory_bytes, "tp": plan.tp, "utilization": plan.utilization}
        check.equal(got, wanted, given=given)


@pytest.mark.task("fit")
@pytest.mark.parametrize("kind", ["gqa", "mla", "plain"])
def test_max_context(student, check, rng_seed, kind):
    """The longest context fits, one block more does not, and the model's own limit holds."""
    config = reference.random_config(kind, rng_seed)
    plan = dataclasses.replace(PLAN, block_size=4)
    for wanted in (4, 20, 64):
        low, high = (reference.memory(config, plan, 3, wanted + more) for more in (0, 1))
        card = gpu_with((low + high) / 2 / plan.utilization)
        got = student.fit.max_context(config, card, plan, 3)
        check.equal(got, wanted, given={"memory": card.memory_bytes, "batch": 3})
    got = student.fit.max_context(config, gpu("h200"), plan, 1)
    check.equal(got, config.max_position_embeddings, given={"gpu": "h200"})
    check.equal(student.fit.max_context(config, gpu_with(100), plan, 1), 0, given={"memory": 100})


@pytest.mark.task("fit")
def test_max_context_with_a_window(student, check, rng_seed):
    """Behind its window a context costs nothing more, so the model's own limit is reached."""
    config = reference.random_config("window", rng_seed)
    need = reference.memory(config, PLAN, 2, config.sliding_window)
    card = gpu_with(need * 101 / 100 / PLAN.utilization)
    got = student.fit.max_context(config, card, PLAN, 2)
    check.equal(got, config.max_position_embeddings, given={"window": config.sliding_window})


@pytest.mark.task("fit")
def test_fit_refuses(student, check):
    """Requests of no token, batches of no request and illegal degrees are refused."""
    config, card, fit = model("llama-3-8b"), gpu("h200"), student.fit
    with check.raises(ValueError, given={"context": 0}):
        fit.max_batch(config, card, PLAN, 0)
    with check.raises(ValueError, given={"batch": 0}):
        fit.max_context(config, card, PLAN, 0)
    with check.raises(ValueError, given={"tp": 3}):
        fit.max_batch(config, card, dataclasses.replace(PLAN, tp=3), 10)


# -- roofline --------------------------------------------------------------------------------------


@pytest.mark.task("roofline")
@pytest.mark.parametrize("key", GPUS)
def test_ridge(student, check, key):
    """The ridge point is peak over bandwidth, for each dtype."""
    card = GPUS[key]
    for dtype, peak in card.dense_flops.items():
        got = student.roofline.ridge_point(card, dtype)
        check.number(got, peak / card.memory_bandwidth, given={"gpu": key, "dtype": dtype})
        check.number(student.roofline.peak_flops(card, dtype), peak, given={"dtype": dtype})


@pytest.mark.task("roofline", weight=2)
def test_roof(student, check, rng_seed):
    """Below the ridge memory decides, above it arithmetic: time, roof and bound agree."""
    rng, roofline = random.Random(rng_seed), student.roofline
    for _ in range(20):
        card, dtype = (
            rng.choice([gpu("h200"), gpu("l4"), gpu("rtx4090")]),
            rng.choice(["bf16", "fp8"]),
        )
        ridge = card.dense_flops[dtype] / card.memory_bandwidth
        moved, factor = 10 ** rng.uniform(3, 12), rng.choice([0.001, 0.7, 0.999, 1.001, 1.5, 400])
        work = Work(moved * ridge * factor, moved)
        given = {"flops": work.flops, "bytes": moved, "gpu": card.key, "dtype": dtype}
        seconds = max(work.flops / card.dense_flops[dtype], moved / card.memory_bandwidth)
        check.number(roofline.step_time(work, card, dtype), seconds, rel=REL, given=given)
        check.number(roofline.intensity(work), ridge * factor, rel=REL, given=given)
        roof = min(1.0, factor) * card.dense_flops[dtype]
        got = roofline.attainable_flops(card, ridge * factor, dtype)
        check.number(got, roof, rel=REL, given=given)
        limit = "memory" if factor < 1 else "compute"
        check.equal(roofline.bound(work, card, dtype), limit, given=given)


@pytest.mark.task("roofline")
def test_ends_of_the_roof(student, check):
    """At the ridge itself arithmetic is the limit; work without traffic has infinite intensity."""
    card = dataclasses.replace(gpu("h200"), memory_bandwidth=100.0, dense_flops={"bf16": 1000.0})
    at_ridge = student.roofline.bound(Work(1000.0, 100.0), card)
    check.equal(at_ridge, "compute", given={"intensity": 10, "ridge": 10})
    endless = student.roofline.intensity(Work(5.0, 0.0))
    check.true(endless == float("inf"), "infinite intensity", expected="inf", got=endless)
    got = student.roofline.bound(Work(5.0, 0.0), card)
    check.equal(got, "compute", given={"bytes": 0})


@pytest.mark.task("roofline")
def test_missing_dtype(student, check):
    """A dtype that the GPU does not have is refused everywhere."""
    card, work, roofline = gpu("t4"), Work(1.0, 1.0), student.roofline
    for call in (
        lambda: roofline.peak_flops(card, "bf16"),
        lambda: roofline.ridge_point(card, "bf16"),
        lambda: roofline.step_time(work, card, "fp8"),
        lambda: roofline.attainable_flops(card, 1.0, "fp8"),
        lambda: roofline.bound(work, card, "bf16"),
    ):
        with check.raises(ValueError, given={"gpu": "t4"}):
            call()


# -- phases ----------------------------------------------------------------------------------------


@pytest.mark.task("phases")
def test_routed_share(student, check, rng_seed):
    """The expected share of experts is one minus the chance that no token takes one."""
    for kind in ("moe", "mla"):
        config = reference.random_config(kind, rng_seed)
        for tokens in (1, 2, 7, 100):
            got = student.phases.routed_share(config, tokens)
            expected = float(reference.routed_share(config, tokens))
            given = {"E": config.num_experts, "k": config.num_experts_per_token, "tokens": tokens}
            check.number(got, expected, rel=REL, given=given)
    check.number(student.phases.routed_share(model("llama-3-8b"), 3), 1, given={"experts": 0})


@pytest.mark.task("phases")
@kinds
def test_weight_traffic(student, check, rng_seed, kind):
    """Weights are read once, but for tables that are looked up and experts that nobody takes."""
    config = reference.random_config(kind, rng_seed)
    for fmt, tokens in itertools.product((BF16, DOUBLE, ODD), (1, 4)):
        got = student.phases.weight_traffic(config, fmt, tokens)
        given = {"format": fmt.key, "tokens": tokens, "config": reference.brief(config)}
        check.number(got, reference.weight_traffic(config, fmt, tokens), rel=REL, given=given)


@pytest.mark.task("phases")
@kinds
def test_matmul_flops(student, check, rng_seed, kind):
    """Two FLOPs for each weight a token goes through, and the head once a sequence."""
    config = reference.random_config(kind, rng_seed)
    for tokens, sequences in ((1, 1), (50, 3)):
        got = student.phases.matmul_flops(config, tokens, sequences)
        expected = reference.matmul_flops(config, tokens, sequences)
        given = {"tokens": tokens, "sequences": sequences, "config": reference.brief(config)}
        check.number(got, expected, rel=REL, given=given)


@pytest.mark.task("phases", weight=2)
@kinds
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_work(student, check, rng_seed, kind, phase):
    """A phase's FLOPs and bytes are those counted matrix by matrix and pair by pair."""
    config = reference.random_config(kind, rng_seed)
    function = getattr(student.phases, f"{phase}_work")
    for plan, tokens, batch in itertools.product(plans(config), (1, 33), (1, 5)):
        got = function(config, plan, tokens, batch)
        flops, moved = reference.work(config, plan, phase, tokens, batch)
        given = {"tokens": tokens, "batch": batch, "tp": plan.tp, "kv": plan.kv.key}
        given["config"] = reference.brief(config)
        check.number(got.flops, flops, rel=REL, given=given)
        check.number(got.bytes, moved, rel=REL, given=given)


@pytest.mark.task("phases")
def test_prefill_is_its_decode_steps(student, check, rng_seed):
    """Attention of a prompt costs what its tokens would cost one by one."""
    config, phases = reference.random_config("window", rng_seed), student.phases
    whole = phases.prefill_work(config, PLAN, 20).flops
    steps = sum(phases.decode_work(config, PLAN, seen).flops for seen in range(1, 21))
    heads = 19 * 2 * config.vocab_size * config.hidden_size  # decode runs the head every time
    check.number(steps - heads, whole, rel=REL, given={"prompt": 20})


@pytest.mark.task("phases", weight=2)
@pytest.mark.parametrize("kind", ["gqa", "moe", "mla", "window"])
def test_times(student, check, rng_seed, kind):
    """A phase takes the roofline's time, and then the all-reduces'."""
    config = reference.random_config(kind, rng_seed)
    cards = [gpu("h100-sxm"), dataclasses.replace(gpu("h200"), interconnect_bandwidth=1e9)]
    for card, plan, (tokens, batch) in itertools.product(cards, plans(config), ((9, 1), (40, 64))):
        given = {"gpu": card.key, "tokens": tokens, "batch": batch, "tp": plan.tp}
        for phase in ("prefill", "decode"):
            got = getattr(student.phases, f"{phase}_time")(config, card, plan, tokens, batch)
            expected = reference.seconds(config, card, plan, phase, tokens, batch)
            check.number(got, expected, rel=REL, given={"phase": phase, **given})


@pytest.mark.task("phases")
def test_floor(student, check):
    """The floor of Llama 3 8B in BF16 on an H100 is 4.48 ms: the embedding is not read."""
    config, plan, phases = model("llama-3-8b"), ServingPlan(), student.phases
    floor = phases.decode_floor(config, gpu("h100-sxm"), plan)
    check.number(floor, (16_060_522_496 - 2 * 128256 * 4096) / 3.35e12, rel=REL)
    halved = phases.decode_floor(config, gpu("h100-sxm"), dataclasses.replace(plan, tp=2))
    check.number(halved, floor / 2, rel=REL, given={"tp": 2})
    for key in ("qwen3-0.6b", "mixtral-8x7b"):
        floor = phases.decode_floor(model(key), gpu("h200"), plan)
        expected = reference.weight_traffic(model(key), BF16, 1) / 4.8e12
        check.number(floor, expected, rel=REL, given={"model": key})


@pytest.mark.task("phases")
@pytest.mark.parametrize("function", ["prefill_work", "decode_work", "prefill_time", "decode_time"])
def test_phases_refuse(student, check, function):
    """Passes of no token or no sequence, and illegal degrees, are refused."""
    config, call = model("llama-3-8b"), getattr(student.phases, function)
    first = (config, gpu("h200")) if function.endswith("time") else (config,)
    for tokens, batch in ((0, 1), (1, 0)):
        with check.raises(ValueError, given={"tokens": tokens, "batch": batch}):
            call(*first, PLAN, tokens, batch)
    with check.raises(ValueError, given={"tp": 3}):
        call(*first, dataclasses.replace(PLAN, tp=3), 5, 1)


# -- cost ------------------------------------------------------------------------------------------


@pytest.mark.task("cost")
def test_price_scales(student, check, rng_seed):
    """Twice the price costs twice as much, twice the speed half; no speed has no price."""
    rng = random.Random(rng_seed)
    for _ in range(5):
        dollars, speed = rng.uniform(0.1, 100), rng.uniform(1, 1e5)
        got = student.cost.dollars_per_million(dollars, speed)
        check.number(got, dollars / (speed * 3600) * 1e6, rel=REL, given={"tokens/s": speed})
    for speed in (0.0, -1.0):
        with check.raises(ValueError, given={"tokens/s": speed}):
            student.cost.dollars_per_million(1.0, speed)


@pytest.mark.task("cost")
def test_replicas(student, check):
    """Only whole replicas count."""
    for tp, expected in ((1, 8), (2, 4), (3, 2), (8, 1), (16, 0)):
        plan = dataclasses.replace(PLAN, tp=tp)
        got = student.cost.replicas(INSTANCES["p5.48xlarge"], plan)
        check.equal(got, expected, given={"GPUs": 8, "tp": tp})


@pytest.mark.task("cost", weight=2)
@pytest.mark.parametrize("key", ["llama-3-8b", "qwen3-30b-a3b", "mistral-7b"])
def test_serving_cost(student, check, key):
    """Input is priced by prefill, output by a full decode batch, over all replicas."""
    config = model(key)
    for rented, plan, batch in (
        (Instance("one", "h200", 1, 3.0), ServingPlan(), 4),
        (Instance("eight", "a100-80", 8, 20.0), ServingPlan(weights=INT4, tp=2), 16),
        (Instance("three", "h100-sxm", 3, 9.0), ServingPlan(tp=2, kv=FORMATS["fp8"]), 2),
    ):
        got = student.cost.serving_cost(config, rented, plan, 1000, 200, batch)
        card, copies = gpu(rented.gpu), rented.num_gpus // plan.tp
        prefill = reference.seconds(config, card, plan, "prefill", 1000, 1)
        decode = reference.seconds(config, card, plan, "decode", 1200, batch)
        dollars = rented.dollars_per_hour / 3600 / copies * 1e6
        expected = {"input": dollars * prefill / 1000, "output": dollars * decode / batch}
        given = {"model": key, "instance": rented.key, "batch": batch}
        check.equal(sorted(got), ["input", "output"], given=given)
        for kind, value in expected.items():
            check.number(got[kind], value, rel=1e-8, given={"tokens": kind, **given})


@pytest.mark.task("cost")
def test_full_batch_by_default(student, check):
    """Without a batch, as many requests as fit are decoded together."""
    config, rented = model("llama-3-70b"), Instance("four", "a100-80", 4, 10.0)
    plan = ServingPlan(tp=4)
    batch = reference.max_batch(config, gpu("a100-80"), plan, 3000)
    got = student.cost.serving_cost(config, rented, plan, 2000, 1000)["output"]
    step = reference.seconds(config, gpu("a100-80"), plan, "decode", 3000, batch)
    check.number(got, 10 / 3600 * step / batch * 1e6, rel=1e-8, given={"batch that fits": batch})


@pytest.mark.task("cost", weight=2)
def test_no_price_for_what_does_not_fit(student, check):
    """A model has no price on an instance that it does not fit, nor a batch that does not."""
    cost, plan = student.cost.serving_cost, ServingPlan()
    one = Instance("one", "h100-sxm", 1, 3.0)
    with check.raises(ValueError, given={"model": "70B in BF16", "gpu": "one H100"}):
        cost(model("llama-3-70b"), one, plan, 100, 100)
    with check.raises(ValueError, given={"tp": 2, "GPUs": 1}):
        cost(model("llama-3-8b"), one, dataclasses.replace(plan, tp=2), 100, 100)
    fits = reference.max_batch(model("llama-3-8b"), gpu("h100-sxm"), plan, 8000)
    for batch in (0, -1, fits + 1):
        with check.raises(ValueError, given={"batch": batch, "fits": fits}):
            cost(model("llama-3-8b"), one, plan, 7000, 1000, batch)


# -- placement -------------------------------------------------------------------------------------

CASES = [
    # model, instance, prompt, output, ttft, tpot
    ("llama-3-8b", Instance("a", "l4", 4, 4.0), 1500, 500, 9.0, 0.5),
    ("llama-3-8b", Instance("b", "l4", 4, 4.0), 1500, 500, 9.0, 0.040),
    ("llama-3-8b", Instance("c", "a10g", 1, 1.0), 1000, 100, 9.0, 9.0),
    ("llama-3-8b", Instance("d", "l40s", 8, 20.0), 6000, 1000, 0.3, 0.03),
    ("llama-3-70b", Instance("e", "a100-80", 8, 27.0), 4000, 4000, 9.0, 0.06),
    ("mixtral-8x7b", Instance("f", "a100-80", 8, 27.0), 16000, 4000, 9.0, 0.05),
    ("qwen3-30b-a3b", Instance("g", "h100-sxm", 8, 55.0), 30000, 2000, 5.0, 0.02),
    ("llama-3-8b", Instance("h", "a100-40", 3, 9.0), 6000, 2000, 9.0, 0.05),
]


@pytest.mark.task("placement", weight=3)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1].key)
def test_place(student, check, case):
    """The placement is the cheapest over all legal degrees and all batches within both limits."""
    key, rented, prompt, output, ttft_s, tpot_s = case
    plan = ServingPlan(tp=7)  # ignored
    expected = reference.place(
        model(key), rented, gpu(rented.gpu), plan, prompt, output, ttft_s, tpot_s
    )
    got = student.placement.place(model(key), rented, plan, prompt, output, ttft_s, tpot_s)
    given = {
        "model": key,
        "gpus": f"{rented.num_gpus} {rented.gpu}",
        "ttft": ttft_s,
        "tpot": tpot_s,
    }
    if expected is None or got is None:
        check.equal(got, expected, given=given)
        return
    for field in ("instance", "tp", "replicas", "batch"):
        check.equal(getattr(got, field), getattr(expected, field), given={"field": field, **given})
    for field in ("ttft_s", "tpot_s", "output_cost"):
        wanted = getattr(expected, field)
        check.number(getattr(got, field), wanted, rel=1e-8, given={"field": field, **given})


@pytest.mark.task("placement")
def test_impossible(student, check):
    """Too slow to start, too slow to go on, or a dtype the GPU lacks: no placement."""
    config, plan, place = model("llama-3-8b"), ServingPlan(), student.placement.place
    one = Instance("one", "l4", 1, 1.0)
    limits = {"ttft": (1e-3, 9.0), "tpot": (9.0, 1e-3)}
    for name, (ttft_s, tpot_s) in limits.items():
        got = place(config, one, plan, 1000, 100, ttft_s, tpot_s)
        check.equal(got, None, given={"limit": name})
    got = place(model("qwen3-0.6b"), Instance("old", "t4", 1, 0.5), plan, 100, 100, 9.0, 9.0)
    check.equal(got, None, given={"gpu": "t4", "dtype": "bf16"})


@pytest.mark.task("placement", weight=2)
def test_choose(student, check):
    """The lowest cost per output token wins, then the lower price an hour, then the first."""
    config, plan, choose = model("llama-3-8b"), ServingPlan(), student.placement.choose
    big, small = Instance("big", "h200", 8, 80.0), Instance("small", "h200", 1, 10.0)
    dear, twin = Instance("dear", "h200", 1, 11.0), Instance("twin", "h200", 1, 10.0)
    tight = (2000, 500, 9.0, 0.008)
    for listed, expected in (
        ([dear, small], "small"),
        ([small, twin], "small"),
        ([twin, small], "twin"),
        ([Instance("slow", "l4", 1, 0.1), small], "small"),
        ([Instance("cheap", "l40s", 1, 0.1), big], "big"),
    ):
        got = choose(config, listed, plan, *tight)
        given = {"instances": [item.key for item in listed], "tpot": 0.008}
        check.true(got is not None, "one of them meets both limits", given=given)
        check.equal(got.instance, expected, given=given)
    # The L40S is cheaper an hour and meets these limits, but makes far fewer tokens.
    loose, listed = (2000, 500, 9.0, 0.05), [Instance("low", "l40s", 1, 2.0), small]
    got = choose(config, listed, plan, *loose)
    check.true(got is not None, "both meet both limits", given={"tpot": 0.05})
    check.equal(got.instance, "small", given={"instances": ["low", "small"], "tpot": 0.05})
    check.equal(choose(config, [], plan, *tight), None, given={"instances": []})
    got = choose(model("llama-3-405b"), [small, twin], plan, *tight)
    check.equal(got, None, given={"model": "llama-3-405b"})
