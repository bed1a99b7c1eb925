"""What fits: memory of one GPU as a function of batch and context, and its inverses."""

from __future__ import annotations

import math

from labs.common.hardware import Gpu
from labs.common.models import ModelConfig
from labs.common.serving import ServingPlan

from .kv_cache import kv_bytes_per_request
from .parallel import kv_copies, weight_bytes_per_gpu


def activation_bytes(
    config: ModelConfig, tokens: int, sequences: int, bits: int = 16, tp: int = 1
) -> int:
    """Peak bytes of activations on one GPU in a forward pass over ``tokens`` tokens.

    Nothing is kept for a backward pass, so the peak is the largest of three moments. Numbers alive:

    - in attention, per token: residual stream and normed input (``2 * hidden_size``); queries, keys
      and values of this GPU's heads; the heads' output;
    - in the MLP, per token: residual stream and normed input; gate and up (a plain MLP: up alone);
      their product (a plain MLP: the activated copy);
    - at the head, per sequence: the last hidden state (``hidden_size`` numbers of ``bits``) and the
      logits in fp32, this GPU's share of the vocabulary.

    For MLA keys and queries have ``qk_nope_head_dim + qk_rope_head_dim`` channels and there are as
    many KV heads as query heads. An MoE token is in ``num_experts_per_token`` routed and all shared
    experts at once; dense layers of an MoE model count, too: the widest layer decides. Heads,
    columns and vocabulary are divided by ``tp`` (KV heads: at least one on each GPU), numbers a GPU
    cannot have in part are rounded up.
    """
    ### BEGIN SOLUTION
    c = config
    if c.attention == "mla":
        key_dim, value_dim = c.qk_nope_head_dim + c.qk_rope_head_dim, c.v_head_dim
        kv_heads = c.num_attention_heads
    else:
        key_dim = value_dim = c.head_dim
        kv_heads = c.num_kv_heads
    heads, kv_heads = math.ceil(c.num_attention_heads / tp), math.ceil(kv_heads / tp)
    attention = heads * (key_dim + value_dim) + kv_heads * (key_dim + value_dim)
    widths = []
    if c.num_experts:
        widths.append((c.num_experts_per_token + c.num_shared_experts) * c.moe_intermediate_size)
    if not c.num_experts or c.num_dense_layers:
        widths.append(c.intermediate_size)
    mlp = math.ceil(max(widths) / tp) * (3 if c.mlp == "gated" else 2)
    per_token = 2 * c.hidden_size + max(attention, mlp)
    head_bits = c.hidden_size * bits + math.ceil(c.vocab_size / tp) * 32
    return math.ceil(max(tokens * per_token * bits, sequences * head_bits) / 8)
    ### END SOLUTION


def memory_bytes(config: ModelConfig, plan: ServingPlan, batch: int, context: int) -> int:
    """Bytes on each GPU: weights, activations, and ``batch`` requests' cache of ``context`` tokens.

    A GPU holds ``kv_copies / tp`` of each request's cache, rounded up to whole bytes. Activations
    are those of ``plan.max_tokens`` tokens and ``batch`` sequences in 16 bits.

    Raises:
        ValueError: ``plan.tp`` is not legal for this model.
    """
    ### BEGIN SOLUTION
    request = kv_bytes_per_request(config, context, plan.kv, plan.block_size)
    cache = batch * math.ceil(request * kv_copies(config, plan.tp) / plan.tp)
    activations = activation_bytes(config, plan.max_tokens, batch, tp=plan.tp)
    return weight_bytes_per_gpu(config, plan.weights, plan.tp) + cache + activations


def _fits(config: ModelConfig, gpu: Gpu, plan: ServingPlan, batch: int, context: int) -> bool:
    """Whether this batch and context fit into the share of memory that the plan allows."""
    return memory_bytes(config, plan, batch, context) <= plan.utilization * gpu.memory_bytes
    ### END SOLUTION


def max_batch(config: ModelConfig, gpu: Gpu, plan: ServingPlan, context: int) -> int:
    """The most requests of ``context`` tokens that fit together; 0 if not even one does.

    Memory may be used up to ``plan.utilization`` of ``gpu.memory_bytes``, that amount included.
    (Whether the model was made for such a context is not asked here.) Thousands may fit.

    Raises:
        ValueError: ``context`` is less than 1, or ``plan.tp`` is not legal for this model.
    """
    ### BEGIN SOLUTION
    if context < 1:
        raise ValueError(f"a request has at least one token, not {context}")
    low, high = 0, 1
    while _fits(config, gpu, plan, high, context):
        low, high = high, 2 * high
    while high - low > 1:  # low fits, high does not
        middle = (low + high) // 2
        if _fits(config, gpu, plan, middle, context):
            low = middle
        else:
            high = middle
    return low
    ### END SOLUTION


def max_context(config: ModelConfig, gpu: Gpu, plan: ServingPlan, batch: int) -> int:
    """The longest context that ``batch`` requests can have at once; 0 if not even one token fits.

    Never more than the model was made for, ``config.max_position_embeddings``.

    Raises:
        ValueError: ``batch`` is less than 1, or ``plan.tp`` is not legal for this model.
    """
    ### BEGIN SOLUTION
    if batch < 1:
        raise ValueError(f"a batch has at least one request, not {batch}")
    low, high = 0, config.max_position_embeddings + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(config, gpu, plan, batch, middle):
            low = middle
        else:
            high = middle
    return low
    ### END SOLUTION
