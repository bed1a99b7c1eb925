"""Models: the configuration fields that formulas need, and exact parameter counts.

Counts are checked in the tests by building each configuration on torch's meta device.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer. Sizes are in elements.

    ``num_parameters`` is exact and counts tied weights once.
    """

    name: str
    key: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    num_parameters: int
    source: str
    date: str = "2026-11"
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 4096
    attention: str = "gqa"
    qk_norm: bool = False
    attention_bias: bool = False
    learned_positions: bool = False
    sliding_window: int | None = None
    norm: str = "rms"
    mlp: str = "gated"
    num_experts: int = 0
    num_experts_per_token: int = 0
    moe_intermediate_size: int = 0
    num_shared_experts: int = 0
    num_dense_layers: int = 0
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    qk_nope_head_dim: int = 0
    v_head_dim: int = 0


def _llama(
    key: str,
    name: str,
    vocab: int,
    hidden: int,
    layers: int,
    heads: int,
    kv: int,
    inner: int,
    total: int,
    context: int,
    source: str,
    **more: object,
) -> ModelConfig:
    head_dim = int(more.pop("head_dim", hidden // heads))  # type: ignore[call-overload]
    return ModelConfig(
        name, key, vocab, hidden, layers, heads, kv, head_dim, inner, total, source,
        max_position_embeddings=context, **more,  # type: ignore[arg-type]
    )  # fmt: skip


_META = "config.json of meta-llama/"
_QWEN = "config.json of Qwen/"

MODELS: dict[str, ModelConfig] = {
    model.key: model
    for model in (
        _llama("llama-2-7b", "Llama 2 7B", 32000, 4096, 32, 32, 32, 11008, 6_738_415_616, 4096,
               _META + "Llama-2-7b-hf"),
        _llama("llama-3-8b", "Llama 3 8B", 128256, 4096, 32, 32, 8, 14336, 8_030_261_248, 8192,
               _META + "Meta-Llama-3-8B"),
        _llama("llama-3-70b", "Llama 3 70B", 128256, 8192, 80, 64, 8, 28672, 70_553_706_496, 8192,
               _META + "Meta-Llama-3-70B"),
        _llama("llama-3-405b", "Llama 3.1 405B", 128256, 16384, 126, 128, 8, 53248, 405_853_388_800,
               131072, _META + "Llama-3.1-405B"),
        _llama("mistral-7b", "Mistral 7B v0.1", 32000, 4096, 32, 32, 8, 14336, 7_241_732_096, 32768,
               "config.json of mistralai/Mistral-7B-v0.1", sliding_window=4096),
        _llama("mixtral-8x7b", "Mixtral 8x7B", 32000, 4096, 32, 32, 8, 14336, 46_702_792_704, 32768,
               "config.json of mistralai/Mixtral-8x7B-v0.1", num_experts=8, num_experts_per_token=2,
               moe_intermediate_size=14336),
        _llama("qwen3-0.6b", "Qwen3 0.6B", 151936, 1024, 28, 16, 8, 3072, 596_049_920, 40960,
               _QWEN + "Qwen3-0.6B", head_dim=128, qk_norm=True, tie_word_embeddings=True),
        _llama("qwen3-4b", "Qwen3 4B", 151936, 2560, 36, 32, 8, 9728, 4_022_468_096, 40960,
               _QWEN + "Qwen3-4B", head_dim=128, qk_norm=True, tie_word_embeddings=True),
        _llama("qwen3-8b", "Qwen3 8B", 151936, 4096, 36, 32, 8, 12288, 8_190_735_360, 40960,
               _QWEN + "Qwen3-8B", head_dim=128, qk_norm=True),
        _llama("qwen3-30b-a3b", "Qwen3 30B-A3B", 151936, 2048, 48, 32, 4, 6144, 30_532_122_624,
               40960, _QWEN + "Qwen3-30B-A3B", head_dim=128, qk_norm=True, num_experts=128,
               num_experts_per_token=8, moe_intermediate_size=768),
        _llama("deepseek-v3", "DeepSeek-V3", 129280, 7168, 61, 128, 128, 18432, 671_026_419_200,
               163840,
               "config.json of deepseek-ai/DeepSeek-V3, without the multi-token-prediction layer",
               head_dim=192, attention="mla", num_experts=256, num_experts_per_token=8,
               moe_intermediate_size=2048, num_shared_experts=1, num_dense_layers=3,
               q_lora_rank=1536, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128,
               v_head_dim=128),
        _llama("gpt2", "GPT-2 124M", 50257, 768, 12, 12, 12, 3072, 124_439_808, 1024,
               "config.json of openai-community/gpt2", tie_word_embeddings=True,
               attention_bias=True, learned_positions=True, norm="layer", mlp="plain"),
    )
}  # fmt: skip


def model(key: str) -> ModelConfig:
    """The model called ``key``. Raises KeyError naming the known keys."""
    try:
        return MODELS[key]
    except KeyError:
        raise KeyError(f"no model {key!r}; known are {', '.join(MODELS)}") from None
