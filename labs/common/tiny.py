"""A tiny Llama and a byte-level BPE tokenizer, made offline and the same on every machine.

The weights are random: good for checking shapes, caches and token identity, useless for quality.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

_CORPUS = (
    "The scheduler admits a request when enough blocks are free.",
    "Prefill reads the prompt once; decode reads the cache at every step.",
    "Größe, déjà vu, naïve, Ελλάδα, 東京, 🙂: one character can be several tokens.",
    "def add(a, b):\n    return a + b\n",
    '{"name": "Ada", "tokens": 128, "stream": true}',
    "1 + 2 = 3; 12 * 12 = 144; 7 - 9 = -2.",
)


def tiny_tokenizer(directory: str | Path, *, vocab_size: int = 384) -> Path:
    """Write a byte-level BPE tokenizer to ``directory`` and return it.

    Trained on a fixed corpus, so that two builds are equal; every string round-trips, because all
    256 bytes are in the vocabulary. Loadable by ``transformers.AutoTokenizer``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return directory


def tiny_llama(
    directory: str | Path,
    *,
    seed: int = 0,
    num_layers: int = 2,
    hidden_size: int = 64,
    num_attention_heads: int = 4,
    num_kv_heads: int = 2,
    vocab_size: int = 384,
) -> Path:
    """Write a random Llama checkpoint to ``directory`` and return it.

    The files are config.json and model.safetensors, of mode 0644, so that a worker under another
    uid can read them. Weights are fp32, drawn from a CPU generator seeded with ``seed``.
    Raises ValueError for sizes that do not divide.
    """
    if hidden_size % num_attention_heads or num_attention_heads % num_kv_heads:
        raise ValueError(
            f"hidden_size {hidden_size} must be a multiple of num_attention_heads "
            f"{num_attention_heads}, and that of num_kv_heads {num_kv_heads}"
        )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    head_dim, intermediate = hidden_size // num_attention_heads, 2 * hidden_size
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5

    weights = {
        "model.embed_tokens.weight": torch.randn(vocab_size, hidden_size, generator=generator)
    }
    for layer in range(num_layers):
        name = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{name}{norm}.weight"] = 1 + 0.1 * torch.randn(
                hidden_size, generator=generator
            )
        for projection, heads in (
            ("q", num_attention_heads),
            ("k", num_kv_heads),
            ("v", num_kv_heads),
        ):
            weights[f"{name}self_attn.{projection}_proj.weight"] = normal(
                heads * head_dim, hidden_size
            )
        weights[f"{name}self_attn.o_proj.weight"] = normal(
            hidden_size, num_attention_heads * head_dim
        )
        for projection in ("gate", "up"):
            weights[f"{name}mlp.{projection}_proj.weight"] = normal(intermediate, hidden_size)
        weights[f"{name}mlp.down_proj.weight"] = normal(hidden_size, intermediate)
    weights["model.norm.weight"] = 1 + 0.1 * torch.randn(hidden_size, generator=generator)
    weights["lm_head.weight"] = normal(vocab_size, hidden_size)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "dtype": "float32",
    }
    save_file(weights, str(directory / "model.safetensors"), metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for file in directory.iterdir():
        file.chmod(0o644)
    return directory


def tiny_checkpoint(directory: str | Path, *, seed: int = 0) -> Path:
    """Write the tiny Llama and its tokenizer to one directory and return it."""
    tiny_llama(directory, seed=seed)
    return tiny_tokenizer(directory)
