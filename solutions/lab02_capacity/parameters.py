"""How many parameters a model has, from its configuration alone.

Every count is exact: it is what the checkpoint holds, with tied weights counted once.
"""

from __future__ import annotations

from labs.common.models import ModelConfig


def attention_matrices(config: ModelConfig) -> int:
    """Weights of the projections of one attention layer.

    GQA: queries, keys, values, output. MLA has none of the first three as such: a token is
    compressed to a latent of ``kv_lora_rank`` and a rotated key of ``qk_rope_head_dim`` (one
    matrix), the latent is expanded to every head's unrotated key and value (one matrix), and
    queries come either through a latent of ``q_lora_rank`` (two matrices) or, where that is 0,
    directly. The output matrix takes all heads' values.
    """
    ### BEGIN SOLUTION
    c, heads = config, config.num_attention_heads
    if c.attention == "mla":
        query_width = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)
        if c.q_lora_rank:
            queries = c.hidden_size * c.q_lora_rank + c.q_lora_rank * query_width
        else:
            queries = c.hidden_size * query_width
        compress = c.hidden_size * (c.kv_lora_rank + c.qk_rope_head_dim)
        expand = c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim)
        return queries + compress + expand + heads * c.v_head_dim * c.hidden_size
    # Queries and output have all heads; keys and values only the KV heads.
    return 2 * c.hidden_size * c.head_dim * (heads + c.num_kv_heads)
    ### END SOLUTION


def expert_matrices(config: ModelConfig) -> int:
    """Weights of one expert of an MoE layer."""
    ### BEGIN SOLUTION
    return _mlp(config, config.moe_intermediate_size)


def _mlp(config: ModelConfig, width: int) -> int:
    return (3 if config.mlp == "gated" else 2) * config.hidden_size * width
    ### END SOLUTION


def parameter_groups(config: ModelConfig) -> dict[str, int]:
    """Parameters of the whole model by what they are, as they matter to storage and traffic.

    Returns:
        A dict with exactly these keys, in this order, 0 where a model has none:

        - ``embedding``: the token table, and the table of learned positions;
        - ``attention``: the projection matrices of all layers;
        - ``mlp``: the matrices of all MLPs and of all experts, routed and shared;
        - ``router``: the matrices ``[num_experts, hidden_size]``, and the router's biases;
        - ``norm``: two norms in each block and the final one, each a gain and, for LayerNorm, a
          bias; and gains alone: with ``qk_norm`` one of ``head_dim`` for queries and one for keys
          in each layer, for MLA one over each latent (``q_lora_rank`` if any, ``kv_lora_rank``);
        - ``bias``: with ``linear_bias``, one number for each output of every matrix in attention
          and MLP;
        - ``head``: the output matrix; 0 where it is tied to the embedding.
    """
    ### BEGIN SOLUTION
    c, layers = config, config.num_layers
    groups = dict.fromkeys(("embedding", "attention", "mlp", "router", "norm", "bias", "head"), 0)
    groups["embedding"] = c.vocab_size * c.hidden_size
    if c.learned_positions:
        groups["embedding"] += c.max_position_embeddings * c.hidden_size
    groups["attention"] = layers * attention_matrices(c)
    moe_layers = layers - c.num_dense_layers if c.num_experts else 0
    experts = c.num_experts + c.num_shared_experts
    groups["mlp"] = (layers - moe_layers) * _mlp(c, c.intermediate_size)
    groups["mlp"] += moe_layers * experts * expert_matrices(c)
    groups["router"] = moe_layers * c.num_experts * (c.hidden_size + c.router_bias)
    per_layer = 2 * c.hidden_size
    if c.attention == "mla":
        per_layer += c.q_lora_rank + c.kv_lora_rank
    elif c.qk_norm:
        per_layer += 2 * c.head_dim
    groups["norm"] = (layers * per_layer + c.hidden_size) * (2 if c.norm == "layer" else 1)
    if c.linear_bias:
        # Each matrix has as many biases as outputs: q, k, v and the output; up (and gate) and down.
        outputs = c.head_dim * (c.num_attention_heads + 2 * c.num_kv_heads) + 2 * c.hidden_size
        outputs += (2 if c.mlp == "gated" else 1) * c.intermediate_size
        groups["bias"] = layers * outputs
    if not c.tie_word_embeddings:
        groups["head"] = c.vocab_size * c.hidden_size
    return groups
    ### END SOLUTION


def total_parameters(config: ModelConfig) -> int:
    """All parameters; tied weights count once."""
    ### BEGIN SOLUTION
    return sum(parameter_groups(config).values())
    ### END SOLUTION


def active_parameters(config: ModelConfig) -> int:
    """Parameters that one token goes through: all but the routed experts it is not sent to.

    The embedding counts in full, as in the figures that model cards give. Equal to
    `total_parameters` for a dense model.
    """
    ### BEGIN SOLUTION
    idle = config.num_experts - config.num_experts_per_token if config.num_experts else 0
    moe_layers = config.num_layers - config.num_dense_layers
    return total_parameters(config) - moe_layers * idle * expert_matrices(config)
    ### END SOLUTION
