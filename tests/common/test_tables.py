"""The course library's tables against configurations built for real; the tiny checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from labs.common.hardware import GPUS, gpu
from labs.common.models import MODELS, ModelConfig, model
from labs.common.tiny import tiny_checkpoint
from labs.common.units import GB, GIB, format_bytes


def build_on_meta(c: ModelConfig) -> Any:
    """The transformers model of a row, without memory."""
    import transformers as t

    common: dict[str, Any] = {
        "vocab_size": c.vocab_size, "hidden_size": c.hidden_size, "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_attention_heads, "num_key_value_heads": c.num_kv_heads,
        "intermediate_size": c.intermediate_size, "tie_word_embeddings": c.tie_word_embeddings,
    }  # fmt: skip
    if c.key == "gpt2":
        kind, config = t.GPT2LMHeadModel, t.GPT2Config()
    elif c.key == "deepseek-v3":
        kind = t.DeepseekV3ForCausalLM
        config = t.DeepseekV3Config(
            **common, n_routed_experts=c.num_experts, num_experts_per_tok=c.num_experts_per_token,
            moe_intermediate_size=c.moe_intermediate_size, n_shared_experts=c.num_shared_experts,
            first_k_dense_replace=c.num_dense_layers, q_lora_rank=c.q_lora_rank,
            kv_lora_rank=c.kv_lora_rank, qk_rope_head_dim=c.qk_rope_head_dim,
            qk_nope_head_dim=c.qk_nope_head_dim, v_head_dim=c.v_head_dim,
        )  # fmt: skip
    elif c.key == "mixtral-8x7b":
        kind, config = (
            t.MixtralForCausalLM,
            t.MixtralConfig(**common, num_local_experts=c.num_experts),
        )
    elif c.key == "qwen3-30b-a3b":
        kind = t.Qwen3MoeForCausalLM
        config = t.Qwen3MoeConfig(
            **common, head_dim=c.head_dim, num_experts=c.num_experts,
            moe_intermediate_size=c.moe_intermediate_size,
            num_experts_per_tok=c.num_experts_per_token,
        )  # fmt: skip
    elif c.qk_norm:
        kind, config = t.Qwen3ForCausalLM, t.Qwen3Config(**common, head_dim=c.head_dim)
    else:
        kind, config = t.LlamaForCausalLM, t.LlamaConfig(**common)
    with torch.device("meta"):
        return kind(config)


@pytest.mark.parametrize("key", MODELS)
def test_parameter_count_is_exact(key: str) -> None:
    built = build_on_meta(MODELS[key])
    # DeepSeek's router has one trained bias per expert, which transformers keeps as a buffer.
    biases = [b for name, b in built.named_buffers() if name.endswith("e_score_correction_bias")]
    assert sum(p.numel() for p in [*built.parameters(), *biases]) == MODELS[key].num_parameters


def test_rows_have_source_and_date_and_agree_with_their_keys() -> None:
    for table in (GPUS, MODELS):
        for key, row in table.items():
            assert row.key == key and row.source and row.date  # type: ignore[attr-defined]


def test_ridge_points_of_known_gpus() -> None:
    ridge = {
        key: gpu(key).dense_flops["bf16"] / gpu(key).memory_bandwidth
        for key in ("a100-80", "h100-sxm", "h200")
    }
    assert ridge == pytest.approx({"a100-80": 153.0, "h100-sxm": 295.3, "h200": 206.1}, rel=1e-3)


def test_unknown_keys_name_the_known_ones() -> None:
    with pytest.raises(KeyError, match="h200"):
        gpu("h300")
    with pytest.raises(KeyError, match="llama-3-8b"):
        model("llama-9")


def test_units_keep_gb_and_gib_apart() -> None:
    assert (GB, GIB) == (1_000_000_000, 1_073_741_824)
    weights = 2 * MODELS["llama-3-8b"].num_parameters
    assert format_bytes(weights) == "16.1 GB" and format_bytes(weights, binary=True) == "15 GiB"


def test_tiny_checkpoint_is_the_same_every_time_and_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def digests(folder: Path) -> dict[str, str]:
        return {
            f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())
        }

    one, two = tiny_checkpoint(tmp_path / "one"), tiny_checkpoint(tmp_path / "two")
    assert digests(one) == digests(two)
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in one.iterdir())
    tokenizer = AutoTokenizer.from_pretrained(one)
    text = "déjà vu 東京 🙂 def f(x):\n\treturn x"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    loaded = AutoModelForCausalLM.from_pretrained(one)
    assert torch.isfinite(loaded(torch.tensor([[1, 2, 3]])).logits).all()
