"""The two small trained models that the course ships, and how to load them or any other.

``TARGET`` (5.6 M parameters, grouped-query attention) and ``DRAFT`` (0.7 M) are Llamas over one
tokenizer, trained on ``labs.common.corpus``: see tiny_models/README.md. Random weights (see
``labs.common.tiny``) suffice for shapes and token identity; these are for quality: what
quantization costs, which tokens a grammar forbids, how often a draft is accepted.

The folder ``tiny_models/`` beside this module holds files only; the module is this one.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from labs.common.corpus import documents

FOLDER = Path(__file__).resolve().parent / "tiny_models"
TARGET = FOLDER / "target"
DRAFT = FOLDER / "draft"

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
VOCAB_SIZE = 2048
TOKENIZER_DOCUMENTS = 6000

#: What differs between the two configurations.
SHAPES: dict[str, dict[str, Any]] = {
    "target": {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "tie_word_embeddings": False,
    },
    "draft": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "tie_word_embeddings": True,
    },
}


def model_config(name: str) -> dict[str, Any]:
    """The config.json of ``"target"`` or ``"draft"``, as transformers 4.51 and 5 read it.

    Each version has its own name for two of the settings; both names are there.
    """
    if name not in SHAPES:
        raise KeyError(f"no shipped model {name!r}; known are {', '.join(SHAPES)}")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        **SHAPES[name],
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def load_tiny(
    name: str | Path = "target", *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Any, Any]:
    """Load a model and its tokenizer: ``"target"``, ``"draft"``, a path, or a Hugging Face name.

    The shipped weights are bf16 numbers. By default they are held, and computed with, in fp32,
    which changes none of them; ``dtype=torch.bfloat16`` computes in the shipped type. The model is
    in eval mode. The shipped models never touch the network; a Hugging Face name does, unless
    cached.
    """
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    path: str | Path = {"target": TARGET, "draft": DRAFT}.get(str(name), name)
    local = Path(path).is_dir()
    reader = PreTrainedTokenizerFast if _is_shipped(path) else AutoTokenizer
    tokenizer = reader.from_pretrained(str(path), local_files_only=local)
    major = int(transformers.__version__.partition(".")[0])
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(path), local_files_only=local, **{"dtype" if major >= 5 else "torch_dtype": dtype}
    )
    return model.eval().to(torch.device(device)), tokenizer


def _is_shipped(path: str | Path) -> bool:
    return Path(path).resolve() in (TARGET, DRAFT)


def train_tokenizer(directory: str | Path, *, count: int = TOKENIZER_DOCUMENTS) -> Path:
    """Write the byte-level BPE tokenizer, made from ``count`` documents, to ``directory``.

    All 256 bytes are in the alphabet, so every string round-trips. Digits stay single, as sums are
    done digit by digit. As with Llama's, ``<s>`` is put before a text unless special tokens are
    turned off: a document begins with it. Two builds are equal byte for byte.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(count), trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise RuntimeError(f"{tokenizer.get_vocab_size()} tokens: the text has too few words")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)]
    )
    settings = {
        # transformers 5 would write a class here that 4.51 refuses.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2) + "\n", encoding="utf-8"
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).chmod(0o644)
    return directory


def _texts(count: int) -> Iterable[str]:
    stream = documents("tokenizer")
    return (next(stream).text for _ in range(count))


# -- outlier channels

#: The shipped target carries these channels 2**OUTLIER_EXPONENT larger than it was trained.
OUTLIER_EXPONENT = 6
OUTLIER_COUNT = 6


@functools.cache
def outlier_channels() -> tuple[int, ...]:
    """The residual channels of the shipped target that were made outliers, ascending."""
    return tuple(json.loads((FOLDER / "outliers.json").read_text(encoding="utf-8")))


_READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def plant_outliers(
    weights: dict[str, torch.Tensor],
    channels: Iterable[int] | None = None,
    exponent: int = OUTLIER_EXPONENT,
) -> dict[str, torch.Tensor]:
    """A copy of a Llama's ``weights`` with outlier channels, computing the same function.

    In each layer the gains of both RMSNorms are multiplied by ``2**exponent`` at ``channels``, and
    the columns of the matrices that read them divided by it. A power of two changes no mantissa: in
    fp32 and bf16 each product is the same number as before, so the logits are too, bit for bit
    where sums are taken in the same order. A negative exponent takes the outliers away again.
    ``channels`` are ``outlier_channels()`` if absent.

    Models of 6.7 B parameters and more show such channels by themselves: few, the same in all
    layers, of magnitude 6 and more (Dettmers et al. 2022, arXiv 2208.07339). Small ones do not.
    """
    out = {name: tensor.clone() for name, tensor in weights.items()}
    at = list(outlier_channels() if channels is None else channels)
    factor = 2.0**exponent
    layers = {name.split(".layers.")[1].split(".")[0] for name in out if ".layers." in name}
    for layer in layers:
        for norm, readers in _READERS.items():
            out[f"model.layers.{layer}.{norm}.weight"][at] *= factor
            for reader in readers:
                out[f"model.layers.{layer}.{reader}.weight"][:, at] /= factor
    return out
