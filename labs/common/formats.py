"""Number formats as storage: how many bits a weight or a cached element really takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """How numbers of a matrix (or of the KV cache) are stored.

    Attributes:
        bits: of one number, without its share of scales.
        group_size: numbers that share one scale; 0 when there are no scales worth counting.
        scale_bits: of one scale.
        zero_bits: of one zero point; 0 when the format is symmetric.
        scale_group_size: double quantization: scales that share one scale of their own; 0: none.
        second_scale_bits: of that scale of scales.
        other_bits: of the weights that the format leaves alone (embedding, head, norms, router,
            biases).
    """

    key: str
    name: str
    bits: int
    source: str
    group_size: int = 0
    scale_bits: int = 0
    zero_bits: int = 0
    scale_group_size: int = 0
    second_scale_bits: int = 0
    other_bits: int = 16


_QLORA = "Dettmers et al. 2023 (QLoRA), arXiv 2305.14314"
_OCP = "OCP Microscaling Formats (MX) v1.0"

FORMATS: dict[str, Format] = {
    item.key: item
    for item in (
        Format("fp32", "FP32", 32, "IEEE 754", other_bits=32),
        Format("bf16", "BF16", 16, "bfloat16"),
        Format("fp16", "FP16", 16, "IEEE 754"),
        Format("fp8", "FP8, one scale a tensor", 8, "Micikevicius et al. 2022, arXiv 2209.05433"),
        Format("int8-g128", "INT8, groups of 128", 8, "as vLLM's group-wise INT8", 128, 16),
        Format("int4-g128", "INT4, groups of 128, with zero points", 4,
               "Frantar et al. 2022 (GPTQ), arXiv 2210.17323", 128, 16, 4),
        Format("nf4", "NF4, blocks of 64", 4, _QLORA, 64, 32),
        Format("nf4-dq", "NF4 with double quantization", 4, _QLORA, 64, 8, 0, 256, 32),
        Format("mxfp4", "MXFP4, blocks of 32", 4, _OCP, 32, 8),
        Format("q8_0", "GGUF Q8_0, blocks of 32", 8, "ggml block_q8_0", 32, 16),
        Format("q4_0", "GGUF Q4_0, blocks of 32", 4, "ggml block_q4_0", 32, 16),
    )
}  # fmt: skip


def number_format(key: str) -> Format:
    """The format called ``key``. Raises KeyError naming the known keys."""
    try:
        return FORMATS[key]
    except KeyError:
        raise KeyError(f"no format {key!r}; known are {', '.join(FORMATS)}") from None
