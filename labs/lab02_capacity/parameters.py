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
    raise NotImplementedError("attention_matrices: your code here")


def expert_matrices(config: ModelConfig) -> int:
    """Weights of one expert of an MoE layer."""
    raise NotImplementedError("expert_matrices: your code here")


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
    raise NotImplementedError("parameter_groups: your code here")


def total_parameters(config: ModelConfig) -> int:
    """All parameters; tied weights count once."""
    raise NotImplementedError("total_parameters: your code here")


def active_parameters(config: ModelConfig) -> int:
    """Parameters that one token goes through: all but the routed experts it is not sent to.

    The embedding counts in full, as in the figures that model cards give. Equal to
    `total_parameters` for a dense model.
    """
    raise NotImplementedError("active_parameters: your code here")
