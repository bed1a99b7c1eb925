"""Checkpoints of transformers' Llama for lab 01's tests, and what transformers makes of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def readable(folder: Path | str) -> None:
    """Let the submission's user read every file below ``folder``."""
    for root, _, files in os.walk(folder):
        os.chmod(root, 0o755)
        for file in files:
            os.chmod(os.path.join(root, file), 0o644)


def random_llama(seed: int, **changes: Any) -> Any:
    """A tiny random Llama of transformers in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": 61, "hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 128, "initializer_range": 0.3, "rms_norm_eps": 1e-3,
        "tie_word_embeddings": False,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()
    with torch.no_grad():  # gains of 1 and biases of 0 would hide a model that forgets them
        for name, value in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                value.add_(torch.randn_like(value) * 0.3)
    return model


def write_llama(
    path: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> Any:
    """The same, saved under path in ``dtype``."""
    model = random_llama(seed, **changes).to(dtype)
    model.save_pretrained(path)
    readable(path)
    return model


def greedy(oracle: Any, prompt: list[int], steps: int) -> list[int]:
    """Greedy tokens of transformers, without a cache."""
    tokens = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            tokens.append(int(oracle(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]
