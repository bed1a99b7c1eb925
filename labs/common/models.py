"""Models: the configuration fields that formulas need, and exact parameter counts beside them.

The counts are checked in the tests by building each configuration on torch's meta device.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer, in numbers of elements.

    Attributes:
        num_layers: transformer blocks.
        num_attention_heads: query heads.
        num_kv_heads: key-value heads: as many as query heads for MHA, 1 for MQA, between for GQA.
        head_dim: channels of a query or key head; for MLA ``qk_nope_head_dim + qk_rope_head_dim``.
        intermediate_size: width of a dense MLP.
        tie_word_embeddings: the output head is the token embedding itself, stored once.
        attention: ``"gqa"`` (MHA and MQA included) or ``"mla"``.
        qk_norm: an RMSNorm of width ``head_dim`` on queries and one on keys, in every layer.
        linear_bias: every linear layer inside the blocks has a bias; the head has none.
        learned_positions: a table ``[max_position_embeddings, hidden_size]`` beside the embedding.
        sliding_window: in every layer a token sees itself and the ``sliding_window - 1`` before it.
        norm: ``"rms"`` (a gain) or ``"layer"`` (a gain and a bias); two in each block, one at the
            end.
        mlp: ``"gated"`` (gate, up and down matrices) or ``"plain"`` (up and down).
        num_experts: routed experts of an MoE layer; 0 for a dense model.
        num_experts_per_token: routed experts that each token goes through.
        moe_intermediate_size: width of one expert, routed or shared.
        num_shared_experts: experts every token goes through, without a router.
        num_dense_layers: the first layers of an MoE model that have a dense MLP.
        router_bias: one trained bias per routed expert beside the router's matrix.
        q_lora_rank: MLA: width of the compressed query; 0 when queries are not compressed.
        kv_lora_rank: MLA: width of the latent that is cached.
        qk_rope_head_dim: MLA: rotated channels of a key, one set shared by all heads, cached too.
        qk_nope_head_dim: MLA: channels of a key without rotation, per head.
        v_head_dim: MLA: channels of a value, per head.
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
    source: str = ""
    date: str = ""
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 4096
    attention: str = "gqa"
    qk_norm: bool = False
    linear_bias: bool = False
    learned_positions: bool = False
    sliding_window: int | None = None
    norm: str = "rms"
    mlp: str = "gated"
    num_experts: int = 0
    num_experts_per_token: int = 0
    moe_intermediate_size: int = 0
    num_shared_experts: int = 0
    num_dense_layers: int = 0
    router_bias: bool = False
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    qk_nope_head_dim: int = 0
    v_head_dim: int = 0


# Exact counts; tied weights count once. DeepSeek-V3 without its multi-token-prediction layer, with
# the router's bias of 256 numbers in each of 58 layers.
PARAMETER_COUNTS: dict[str, int] = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3-405b": 405_853_388_800,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "deepseek-v3": 671_026_419_200,
    "gpt2": 124_439_808,
}


def _model(
    key: str,
    name: str,
    repository: str,
    sizes: tuple[int, int, int, int, int, int],  # vocabulary, hidden, layers, heads, KV heads, MLP
    context: int,
    **more: object,
) -> ModelConfig:
    vocab, hidden, layers, heads, kv_heads, intermediate = sizes
    fields: dict[str, object] = {"head_dim": hidden // heads, **more}
    return ModelConfig(
        name,
        key,
        vocab,
        hidden,
        layers,
        heads,
        kv_heads,
        intermediate_size=intermediate,
        source=f"config.json of {repository}",
        date="2026-11",
        max_position_embeddings=context,
        **fields,  # type: ignore[arg-type]
    )


_QWEN3 = {"head_dim": 128, "qk_norm": True}

MODELS: dict[str, ModelConfig] = {
    model.key: model
    for model in (
        _model("llama-2-7b", "Llama 2 7B", "meta-llama/Llama-2-7b-hf",
               (32000, 4096, 32, 32, 32, 11008), 4096),
        _model("llama-2-13b", "Llama 2 13B", "meta-llama/Llama-2-13b-hf",
               (32000, 5120, 40, 40, 40, 13824), 4096),
        _model("llama-2-70b", "Llama 2 70B", "meta-llama/Llama-2-70b-hf",
               (32000, 8192, 80, 64, 8, 28672), 4096),
        _model("llama-3-8b", "Llama 3 8B", "meta-llama/Meta-Llama-3-8B",
               (128256, 4096, 32, 32, 8, 14336), 8192),
        _model("llama-3-70b", "Llama 3 70B", "meta-llama/Meta-Llama-3-70B",
               (128256, 8192, 80, 64, 8, 28672), 8192),
        _model("llama-3-405b", "Llama 3.1 405B", "meta-llama/Llama-3.1-405B",
               (128256, 16384, 126, 128, 8, 53248), 131072),
        _model("mistral-7b", "Mistral 7B v0.1", "mistralai/Mistral-7B-v0.1",
               (32000, 4096, 32, 32, 8, 14336), 32768, sliding_window=4096),
        _model("mixtral-8x7b", "Mixtral 8x7B", "mistralai/Mixtral-8x7B-v0.1",
               (32000, 4096, 32, 32, 8, 14336), 32768,
               num_experts=8, num_experts_per_token=2, moe_intermediate_size=14336),
        _model("qwen3-0.6b", "Qwen3 0.6B", "Qwen/Qwen3-0.6B",
               (151936, 1024, 28, 16, 8, 3072), 40960, tie_word_embeddings=True, **_QWEN3),
        _model("qwen3-4b", "Qwen3 4B", "Qwen/Qwen3-4B",
               (151936, 2560, 36, 32, 8, 9728), 40960, tie_word_embeddings=True, **_QWEN3),
        _model("qwen3-8b", "Qwen3 8B", "Qwen/Qwen3-8B",
               (151936, 4096, 36, 32, 8, 12288), 40960, **_QWEN3),
        _model("qwen3-30b-a3b", "Qwen3 30B-A3B", "Qwen/Qwen3-30B-A3B",
               (151936, 2048, 48, 32, 4, 6144), 40960,
               num_experts=128, num_experts_per_token=8, moe_intermediate_size=768, **_QWEN3),
        _model("deepseek-v3", "DeepSeek-V3", "deepseek-ai/DeepSeek-V3",
               (129280, 7168, 61, 128, 128, 18432), 163840, head_dim=192, attention="mla",
               num_experts=256, num_experts_per_token=8, moe_intermediate_size=2048,
               num_shared_experts=1, num_dense_layers=3, router_bias=True, q_lora_rank=1536,
               kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128),
        _model("gpt2", "GPT-2 124M", "openai-community/gpt2",
               (50257, 768, 12, 12, 12, 3072), 1024, tie_word_embeddings=True, linear_bias=True,
               learned_positions=True, norm="layer", mlp="plain"),
    )
}  # fmt: skip


def model(key: str) -> ModelConfig:
    """The model called ``key``. Raises KeyError naming the known keys."""
    try:
        return MODELS[key]
    except KeyError:
        raise KeyError(f"no model {key!r}; known are {', '.join(MODELS)}") from None
