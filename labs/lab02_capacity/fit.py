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
    raise NotImplementedError("activation_bytes: your code here")


def memory_bytes(config: ModelConfig, plan: ServingPlan, batch: int, context: int) -> int:
    """Bytes on each GPU: weights, activations, and ``batch`` requests' cache of ``context`` tokens.

    A GPU holds ``kv_copies / tp`` of each request's cache, rounded up to whole bytes. Activations
    are those of ``plan.max_tokens`` tokens and ``batch`` sequences in 16 bits.

    Raises:
        ValueError: ``plan.tp`` is not legal for this model.
    """
    raise NotImplementedError("memory_bytes: your code here")


def max_batch(config: ModelConfig, gpu: Gpu, plan: ServingPlan, context: int) -> int:
    """The most requests of ``context`` tokens that fit together; 0 if not even one does.

    Memory may be used up to ``plan.utilization`` of ``gpu.memory_bytes``, that amount included.
    (Whether the model was made for such a context is not asked here.) Thousands may fit.

    Raises:
        ValueError: ``context`` is less than 1, or ``plan.tp`` is not legal for this model.
    """
    raise NotImplementedError("max_batch: your code here")


def max_context(config: ModelConfig, gpu: Gpu, plan: ServingPlan, batch: int) -> int:
    """The longest context that ``batch`` requests can have at once; 0 if not even one token fits.

    Never more than the model was made for, ``config.max_position_embeddings``.

    Raises:
        ValueError: ``batch`` is less than 1, or ``plan.tp`` is not legal for this model.
    """
    raise NotImplementedError("max_context: your code here")
