"""The engine that lab 02's GPU tier measures: it holds what the reference counts, and computes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from graders.lab02 import reference
from graders.lab02.engine import Engine
from labs.common.formats import FORMATS


@pytest.mark.parametrize("kind", ["gqa", "mha", "tied"])
def test_holds_what_the_reference_counts(kind: str) -> None:
    torch.manual_seed(0)
    config = reference.random_config(kind, 1)
    engine = Engine(config, 3, 7, "cpu")
    weights = {id(engine.embedding): engine.embedding, id(engine.head): engine.head}
    tensors = [*weights.values(), engine.final_norm]
    tensors += [tensor for layer in engine.layers for tensor in layer.values()]
    total = sum(tensor.nbytes for tensor in tensors)
    assert total == reference.weight_bytes(config, FORMATS["bf16"])
    cache = engine.keys.nbytes + engine.values.nbytes
    assert cache == 3 * reference.request_bytes(config, 7, FORMATS["bf16"], 1)


def test_decode_after_prefill_sees_the_prompt() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(reference.random_config("gqa", 1), num_layers=2)
    engine = Engine(config, 1, 8, "cpu")
    assert engine.prefill(8).shape == (1, config.hidden_size)
    ids = torch.tensor([3])
    with_prompt = engine.decode(ids)
    logits_1 = engine.keys.clone()
    engine.keys[:, :, :, :-1] = 0
    engine.values[:, :, :, :-1] = 0
    engine.decode(ids)
    assert with_prompt.shape == (1,)
    # The second layer's last key depends on what the first layer's attention saw.
    assert not torch.equal(logits_1[1, :, :, -1], engine.keys[1, :, :, -1])
