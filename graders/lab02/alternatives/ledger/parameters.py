"""How many parameters a model has, from its configuration alone.

Every count is exact: it is what the checkpoint holds, with tied weights counted once.
"""

from __future__ import annotations

from labs.common.models import ModelConfig


def _attention_shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of each projection of one attention layer."""
    h, heads = config.hidden_size, config.num_attention_heads
    if config.attention != "mla":
        q, kv = heads * config.head_dim, config.num_kv_heads * config.head_dim
        return [(h, q), (h, kv), (h, kv), (q, h)]
    nope, rope, v = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    latent, q_latent = config.kv_lora_rank, config.q_lora_rank
    shapes = [(h, latent + rope), (latent, heads * (nope + v)), (heads * v, h)]
    if q_latent:
        return shapes + [(h, q_latent), (q_latent, heads * (nope + rope))]
    return shapes + [(h, heads * (nope + rope))]


def _mlp_shapes(config: ModelConfig, width: int) -> list[tuple[int, int]]:
    """(inputs, outputs) of each matrix of one MLP or expert of this width."""
    into, out = (config.hidden_size, width), (width, config.hidden_size)
    return [into, into, out] if config.mlp == "gated" else [into, out]


def _cells(shapes: list[tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in shapes)


def attention_matrices(config: ModelConfig) -> int:
    """Weights of the projections of one attention layer."""
    return _cells(_attention_shapes(config))


def expert_matrices(config: ModelConfig) -> int:
    """Weights of one expert of an MoE layer."""
    return _cells(_mlp_shapes(config, config.moe_intermediate_size))


def parameter_groups(config: ModelConfig) -> dict[str, int]:
    """Parameters of the whole model by what they are, as they matter to storage and traffic."""
    h = config.hidden_size
    groups = dict.fromkeys(("embedding", "attention", "mlp", "router", "norm", "bias", "head"), 0)
    gain = 2 * h if config.norm == "layer" else h  # LayerNorm: a gain and a bias
    groups["embedding"] = config.vocab_size * h
    if config.learned_positions:
        groups["embedding"] += config.max_position_embeddings * h
    for layer in range(config.num_layers):
        attention = _attention_shapes(config)
        if config.num_experts and layer >= config.num_dense_layers:
            copies = config.num_experts + config.num_shared_experts
            mlp = _mlp_shapes(config, config.moe_intermediate_size)
            groups["router"] += config.num_experts * h
            if config.router_bias:
                groups["router"] += config.num_experts
        else:
            copies, mlp = 1, _mlp_shapes(config, config.intermediate_size)
        groups["attention"] += _cells(attention)
        groups["mlp"] += copies * _cells(mlp)
        if config.linear_bias:
            groups["bias"] += sum(out for _, out in attention) + copies * sum(o for _, o in mlp)
        groups["norm"] += 2 * gain
        if config.qk_norm:
            groups["norm"] += 2 * config.head_dim
        if config.attention == "mla":
            groups["norm"] += config.q_lora_rank + config.kv_lora_rank
    groups["norm"] += gain
    if not config.tie_word_embeddings:
        groups["head"] = config.vocab_size * h
    return groups


def total_parameters(config: ModelConfig) -> int:
    """All parameters; tied weights count once."""
    return sum(parameter_groups(config).values())


def active_parameters(config: ModelConfig) -> int:
    """Parameters that one token goes through: all but the routed experts it is not sent to."""
    idle = 0
    expert = _mlp_shapes(config, config.moe_intermediate_size)
    for layer in range(config.num_layers):
        if config.num_experts and layer >= config.num_dense_layers:
            size = _cells(expert)
            if config.linear_bias:
                size += sum(out for _, out in expert)
            idle += (config.num_experts - config.num_experts_per_token) * size
    return total_parameters(config) - idle
