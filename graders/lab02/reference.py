"""References of lab 02: a ledger of every matrix, exact fractions, loops instead of formulas.

Nothing here shares code with the solution. The ledger itself is checked against transformers'
models on the meta device.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from fractions import Fraction
from typing import Any

from labs.common.formats import Format
from labs.common.hardware import Gpu
from labs.common.instances import Instance
from labs.common.models import ModelConfig
from labs.common.serving import Placement, ServingPlan

KINDS = ("mha", "gqa", "tied", "qk_norm", "window", "moe", "moe_norm", "mla", "mla_direct", "plain")


def random_config(kind: str, seed: int) -> ModelConfig:
    """A small model of a kind, with sizes that no formula hits by accident."""
    rng = random.Random(f"{kind} {seed}")
    kv_heads, group = rng.choice([2, 4]), rng.choice([2, 3])
    heads = kv_heads * group
    base: dict[str, Any] = {
        "vocab_size": rng.randrange(101, 400),
        "hidden_size": heads * 2 * rng.randrange(3, 8),
        "num_layers": rng.randrange(3, 6),
        "num_attention_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": 2 * rng.randrange(8, 20),
        "intermediate_size": 12 * rng.randrange(5, 12),
        "max_position_embeddings": rng.randrange(90, 200),
    }
    moe: dict[str, Any] = {
        "num_experts": rng.choice([5, 8]),
        "num_experts_per_token": rng.choice([2, 3]),
        "moe_intermediate_size": 12 * rng.randrange(2, 6),
    }
    mla: dict[str, Any] = {
        "attention": "mla",
        "num_kv_heads": heads,
        "q_lora_rank": rng.randrange(20, 30),
        "kv_lora_rank": rng.randrange(30, 50),
        "qk_rope_head_dim": 2 * rng.randrange(2, 5),
        "qk_nope_head_dim": rng.randrange(9, 14),
        "v_head_dim": rng.randrange(14, 19),
        "num_dense_layers": 2,
        "num_shared_experts": rng.choice([1, 2]),
        "router_bias": True,
        **moe,
    }
    mla["head_dim"] = mla["qk_rope_head_dim"] + mla["qk_nope_head_dim"]
    changes: dict[str, dict[str, Any]] = {
        "mha": {"num_kv_heads": heads},
        "gqa": {},
        "tied": {"tie_word_embeddings": True},
        "qk_norm": {"qk_norm": True},
        "window": {"sliding_window": rng.randrange(7, 30)},
        "moe": {**moe, "intermediate_size": moe["moe_intermediate_size"]},
        "moe_norm": {**moe, "qk_norm": True},
        "mla": mla,
        "mla_direct": {**mla, "q_lora_rank": 0},
        "plain": {
            "num_kv_heads": heads,
            "head_dim": base["hidden_size"] // heads,
            "linear_bias": True,
            "learned_positions": True,
            "norm": "layer",
            "mlp": "plain",
            "tie_word_embeddings": True,
        },
    }
    return ModelConfig(name="A model", key=f"{kind}-{seed}", **{**base, **changes[kind]})


def brief(config: ModelConfig) -> str:
    """The fields of a configuration that are not at their defaults, for a message."""
    shown = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name not in ("name", "key", "source", "date") and value != item.default:
            shown.append(f"{item.name}={value}")
    return ", ".join(shown)


def build_on_meta(c: ModelConfig) -> Any:
    """The transformers model of a configuration, without memory."""
    import torch
    import transformers as t

    common: dict[str, Any] = {
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_kv_heads,
        "intermediate_size": c.intermediate_size,
        "tie_word_embeddings": c.tie_word_embeddings,
    }
    kind: Any
    config: Any
    if c.mlp == "plain":
        kind = t.GPT2LMHeadModel
        config = t.GPT2Config(
            vocab_size=c.vocab_size, n_positions=c.max_position_embeddings, n_embd=c.hidden_size,
            n_layer=c.num_layers, n_head=c.num_attention_heads, n_inner=c.intermediate_size,
            bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
    elif c.attention == "mla":
        kind = t.DeepseekV3ForCausalLM
        config = t.DeepseekV3Config(
            **common, n_routed_experts=c.num_experts, n_group=1, topk_group=1,
            num_experts_per_tok=c.num_experts_per_token, n_shared_experts=c.num_shared_experts,
            moe_intermediate_size=c.moe_intermediate_size, first_k_dense_replace=c.num_dense_layers,
            q_lora_rank=c.q_lora_rank or None, kv_lora_rank=c.kv_lora_rank, v_head_dim=c.v_head_dim,
            qk_rope_head_dim=c.qk_rope_head_dim, qk_nope_head_dim=c.qk_nope_head_dim,
        )  # fmt: skip
    elif c.num_experts and c.qk_norm:
        kind = t.Qwen3MoeForCausalLM
        more: dict[str, Any] = {
            "head_dim": c.head_dim,
            "moe_intermediate_size": c.moe_intermediate_size,
        }
        config = t.Qwen3MoeConfig(
            **common, **more, num_experts=c.num_experts,
            num_experts_per_tok=c.num_experts_per_token,
        )  # fmt: skip
    elif c.num_experts:
        kind = t.MixtralForCausalLM
        config = t.MixtralConfig(**common, head_dim=c.head_dim, num_local_experts=c.num_experts)
    elif c.qk_norm:
        kind, config = t.Qwen3ForCausalLM, t.Qwen3Config(**common, head_dim=c.head_dim)
    else:
        kind, config = t.LlamaForCausalLM, t.LlamaConfig(**common, head_dim=c.head_dim)
    with torch.device("meta"):
        return kind(config)


GROUPS = ("embedding", "attention", "mlp", "router", "norm", "bias", "head")


def groups_on_meta(config: ModelConfig) -> dict[str, int]:
    """Parameters of the transformers model, sorted by their names."""
    built = build_on_meta(config)
    counts = dict.fromkeys(GROUPS, 0)
    for name, value in built.named_parameters():
        if "norm" in name or ".ln_" in name:
            group = "norm"
        elif name.endswith(".bias"):
            group = "bias"
        elif "embed" in name or ".wte." in name or ".wpe." in name:
            group = "embedding"
        elif name.startswith("lm_head"):
            group = "head"
        elif name.endswith(".gate.weight"):
            group = "router"
        else:
            group = "attention" if "attn" in name else "mlp"
        counts[group] += value.numel()
    # A trained bias that transformers keeps as a buffer.
    counts["router"] += sum(
        value.numel() for name, value in built.named_buffers() if "e_score_correction" in name
    )
    return counts


@dataclasses.dataclass(frozen=True)
class Matrix:
    """``copies`` matrices of a layer, of which a token goes through ``active``."""

    group: str
    rows: int
    columns: int
    copies: int = 1
    active: int = 1
    routed: bool = False


def is_moe(config: ModelConfig, layer: int) -> bool:
    """Whether this layer has experts."""
    return config.num_experts > 0 and layer >= config.num_dense_layers


def ledger(c: ModelConfig, layer: int) -> list[Matrix]:
    """The matrices of one layer."""
    hidden, heads = c.hidden_size, c.num_attention_heads
    if c.attention == "mla":
        query = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)
        shapes = [(c.q_lora_rank, hidden), (query, c.q_lora_rank)]
        shapes = shapes if c.q_lora_rank else [(query, hidden)]
        shapes.append((c.kv_lora_rank + c.qk_rope_head_dim, hidden))
        shapes.append((heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank))
        shapes.append((hidden, heads * c.v_head_dim))
    else:
        kv_width = c.num_kv_heads * c.head_dim
        shapes = [(heads * c.head_dim, hidden), (kv_width, hidden), (kv_width, hidden)]
        shapes.append((hidden, heads * c.head_dim))
    rows = [Matrix("attention", a, b) for a, b in shapes]
    sides = 3 if c.mlp == "gated" else 2
    if not is_moe(c, layer):
        return rows + [Matrix("mlp", c.intermediate_size, hidden)] * sides
    width = c.moe_intermediate_size
    expert = Matrix("mlp", width, hidden, c.num_experts, c.num_experts_per_token, True)
    rows += [expert] * sides
    if shared := c.num_shared_experts:
        rows += [Matrix("mlp", width, hidden, shared, shared)] * sides
    return [*rows, Matrix("router", c.num_experts, hidden)]


@functools.cache
def groups(c: ModelConfig) -> dict[str, int]:
    """Parameters by group, out of the ledger."""
    counts = dict.fromkeys(GROUPS, 0)
    counts["embedding"] = c.hidden_size * (
        c.vocab_size + (c.max_position_embeddings if c.learned_positions else 0)
    )
    counts["head"] = 0 if c.tie_word_embeddings else c.hidden_size * c.vocab_size
    vectors = 2 if c.norm == "layer" else 1
    counts["norm"] = c.hidden_size * vectors
    for layer in range(c.num_layers):
        for m in ledger(c, layer):
            counts[m.group] += m.rows * m.columns * m.copies
            if c.linear_bias:
                # The ledger writes an MLP's matrices alike; the last one turns back to hidden.
                counts["bias"] += m.rows if m.group == "attention" else 0
        if c.linear_bias:
            counts["bias"] += c.intermediate_size + c.hidden_size
        if is_moe(c, layer) and c.router_bias:
            counts["router"] += c.num_experts
        counts["norm"] += 2 * c.hidden_size * vectors
        if c.attention == "mla":
            counts["norm"] += c.q_lora_rank + c.kv_lora_rank
        elif c.qk_norm:
            counts["norm"] += 2 * c.head_dim
    return counts


def active(c: ModelConfig) -> int:
    """Parameters that a token goes through."""
    idle = 0
    for layer in range(c.num_layers):
        idle += sum(m.rows * m.columns * (m.copies - m.active) for m in ledger(c, layer))
    return sum(groups(c).values()) - idle


def bits(f: Format) -> Fraction:
    """Bits of one number and its share of scales."""
    total = Fraction(f.bits)
    if f.group_size:
        total += Fraction(f.scale_bits + f.zero_bits, f.group_size)
        if f.scale_group_size:
            total += Fraction(f.second_scale_bits, f.group_size * f.scale_group_size)
    return total


@functools.cache
def weight_bytes(c: ModelConfig, f: Format, tp: int = 1) -> Fraction:
    """Bytes of weights on each of ``tp`` GPUs, before any rounding."""
    counts = groups(c)
    split = (counts["attention"] + counts["mlp"]) * bits(f)
    split += sum(counts[name] for name in ("embedding", "head", "bias")) * f.other_bits
    copied = (counts["norm"] + counts["router"]) * f.other_bits
    return (split / tp + copied) / 8


def kept(c: ModelConfig, context: int) -> int:
    """Tokens in the cache."""
    return min(context, c.sliding_window or context)


@functools.cache
def kv_elements(c: ModelConfig) -> int:
    """Cached numbers of a token."""
    if c.attention == "mla":
        return (c.kv_lora_rank + c.qk_rope_head_dim) * c.num_layers
    return sum(c.head_dim for _ in range(2 * c.num_kv_heads)) * c.num_layers


def request_bytes(c: ModelConfig, context: int, f: Format, block: int) -> Fraction:
    """Bytes of a request, before rounding."""
    tokens = 0
    while tokens < kept(c, context):
        tokens += block
    return tokens * kv_elements(c) * bits(f) / 8


def legal(c: ModelConfig, degree: int) -> bool:
    """Whether the model splits over ``degree`` GPUs."""
    if c.num_attention_heads % degree:
        return False
    if c.attention != "mla":
        small, large = sorted((c.num_kv_heads, degree))
        if large % small:
            return False
    widths = {
        c.moe_intermediate_size if is_moe(c, layer) else c.intermediate_size
        for layer in range(c.num_layers)
    }
    return all(width % degree == 0 for width in widths)


def copies(c: ModelConfig, tp: int) -> int:
    """GPUs on which a KV head lies."""
    if c.attention == "mla":
        return tp
    return 1 if tp <= c.num_kv_heads else tp // c.num_kv_heads


def activation_bytes(
    c: ModelConfig, tokens: int, sequences: int, width: int = 16, tp: int = 1
) -> Fraction:
    """The largest of three moments, over all layers, before rounding."""
    heads = -(-c.num_attention_heads // tp)
    if c.attention == "mla":
        kv_heads, key, value = heads, c.qk_nope_head_dim + c.qk_rope_head_dim, c.v_head_dim
    else:
        kv_heads, key, value = -(-c.num_kv_heads // tp), c.head_dim, c.head_dim
    moments = [sequences * (c.hidden_size * width + -(-c.vocab_size // tp) * 32)]
    residual = 2 * c.hidden_size
    moments.append(tokens * (residual + (heads + kv_heads) * (key + value)) * width)
    for layer in range(c.num_layers):
        inner = c.intermediate_size
        if is_moe(c, layer):
            inner = (c.num_experts_per_token + c.num_shared_experts) * c.moe_intermediate_size
        parts = 3 if c.mlp == "gated" else 2
        moments.append(tokens * (residual + parts * -(-inner // tp)) * width)
    return Fraction(max(moments), 8)


def memory(c: ModelConfig, plan: ServingPlan, batch: int, context: int) -> Fraction:
    """Bytes on each GPU, before rounding."""
    cache = request_bytes(c, context, plan.kv, plan.block_size) * copies(c, plan.tp) / plan.tp
    return (
        weight_bytes(c, plan.weights, plan.tp)
        + batch * cache
        + activation_bytes(c, plan.max_tokens, batch, tp=plan.tp)
    )


def max_batch(c: ModelConfig, gpu: Gpu, plan: ServingPlan, context: int) -> int:
    """By trying one after the other."""
    limit = Fraction(plan.utilization) * gpu.memory_bytes
    batch = 0
    while memory(c, plan, batch + 1, context) <= limit:
        batch += 1
    return batch


@functools.cache
def routed_share(c: ModelConfig, tokens: int) -> Fraction:
    """1 - P(an expert is chosen by no token), by logarithms, exact to double precision."""
    chosen = c.num_experts_per_token / c.num_experts
    return 1 - Fraction(math.exp(tokens * math.log1p(-chosen)))


@functools.cache
def weight_traffic(c: ModelConfig, f: Format, tokens: int) -> float:
    """Bytes of weights that a pass reads."""
    counts = groups(c)
    total = Fraction(counts["norm"] + counts["router"] + counts["bias"]) * f.other_bits
    total += c.vocab_size * c.hidden_size * f.other_bits
    for layer in range(c.num_layers):
        for m in ledger(c, layer):
            share = routed_share(c, tokens) if m.routed else Fraction(1)
            if m.group != "router":
                total += m.rows * m.columns * m.copies * share * bits(f)
    return float(total / 8)


@functools.cache
def flops_per_token(c: ModelConfig) -> int:
    """FLOPs of a token in all layers, without attention and head."""
    return sum(
        2 * m.rows * m.columns * m.active for layer in range(c.num_layers) for m in ledger(c, layer)
    )


def matmul_flops(c: ModelConfig, tokens: int, sequences: int) -> int:
    """FLOPs of everything but attention."""
    return tokens * flops_per_token(c) + sequences * 2 * c.vocab_size * c.hidden_size


def work(
    c: ModelConfig, plan: ServingPlan, phase: str, tokens: int, batch: int
) -> tuple[float, float]:
    """(FLOPs, bytes) of one GPU: a prefill of ``tokens``, or the decode step of the last one."""
    prefill = phase == "prefill"
    if c.attention != "mla":
        channels = 2 * c.head_dim
    elif prefill:
        channels = c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim
    else:
        channels = c.kv_lora_rank + c.qk_rope_head_dim + c.kv_lora_rank
    queries = range(1, tokens + 1) if prefill else [tokens]
    pairs = sum(kept(c, seen) for seen in queries)
    new = batch * len(queries)
    flops = matmul_flops(c, new, batch)
    flops += 2 * channels * c.num_attention_heads * c.num_layers * batch * pairs
    cache = float(batch * kept(c, tokens) * kv_elements(c) * bits(plan.kv) / 8)
    moved = weight_traffic(c, plan.weights, new) + cache * copies(c, plan.tp)
    return flops / plan.tp, moved / plan.tp


def seconds(
    c: ModelConfig, gpu: Gpu, plan: ServingPlan, phase: str, tokens: int, batch: int
) -> float:
    """Time of a pass: roofline, then communication."""
    flops, moved = work(c, plan, phase, tokens, batch)
    new = batch * (tokens if phase == "prefill" else 1)
    sent = 2 * (plan.tp - 1) / plan.tp * 2 * c.num_layers * new * c.hidden_size * 2
    peak = gpu.dense_flops[plan.compute]
    return max(flops / peak, moved / gpu.memory_bandwidth) + sent / gpu.interconnect_bandwidth * 2


def place(
    c: ModelConfig,
    instance: Instance,
    gpu: Gpu,
    plan: ServingPlan,
    prompt: int,
    output: int,
    ttft_s: float,
    tpot_s: float,
) -> Placement | None:
    """By trying every degree and every batch."""
    found: list[tuple[float, int, Placement]] = []
    for degree in range(1, instance.num_gpus + 1):
        if not legal(c, degree):
            continue
        trial = dataclasses.replace(plan, tp=degree)
        first = seconds(c, gpu, trial, "prefill", prompt, 1)
        batch = 0
        for more in range(1, max_batch(c, gpu, trial, prompt + output) + 1):
            if seconds(c, gpu, trial, "decode", prompt + output, more) > tpot_s:
                break
            batch = more
        if batch == 0 or first > ttft_s:
            continue
        step = seconds(c, gpu, trial, "decode", prompt + output, batch)
        number = instance.num_gpus // degree
        dollars = instance.dollars_per_hour / 3600 * step / (number * batch) * 1e6
        placement = Placement(instance.key, degree, number, batch, first, step, dollars)
        found.append((dollars, degree, placement))
    return min(found, key=lambda item: item[:2])[-1] if found else None
