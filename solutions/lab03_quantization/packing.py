"""Four-bit codes in bytes, and in the 32-bit words of GPTQ checkpoints.

A byte holds two codes, and there are two orders, both in use:

- ``low_first``: the first code is in the low four bits, the second in the high four. The words of
  GPTQ checkpoints follow it: code k of a word is in the bits 4k to 4k + 3.
- ``high_first``: the first code is in the high four bits. bitsandbytes packs NF4 and FP4 this way.
"""

from __future__ import annotations

import torch

ORDERS = ("low_first", "high_first")


def pack_nibbles(codes: torch.Tensor, order: str = "low_first") -> torch.Tensor:
    """Two codes to a byte, along the last axis.

    Args:
        codes: uint8 [..., n], values 0..15, n even.
        order: ``"low_first"`` or ``"high_first"``.

    Returns:
        uint8 [..., n / 2].

    Raises:
        ValueError: n is odd, a code is above 15, or there is no such order.
    """
    ### BEGIN SOLUTION
    _check_codes(codes)
    if codes.shape[-1] % 2:
        raise ValueError(f"{codes.shape[-1]} codes do not fill whole bytes")
    first, second = codes[..., 0::2], codes[..., 1::2]
    low, high = (first, second) if _low_first(order) else (second, first)
    return low | (high << 4)


def _check_codes(codes: torch.Tensor) -> None:
    if codes.numel() and int(codes.max()) > 15:
        raise ValueError(f"a code of four bits is at most 15, not {int(codes.max())}")


def _low_first(order: str) -> bool:
    if order not in ORDERS:
        raise ValueError(f"the order is one of {', '.join(ORDERS)}, not {order!r}")
    return order == "low_first"
    ### END SOLUTION


def unpack_nibbles(packed: torch.Tensor, order: str = "low_first") -> torch.Tensor:
    """The codes that `pack_nibbles` packed.

    Args:
        packed: uint8 [..., m].
        order: ``"low_first"`` or ``"high_first"``.

    Returns:
        uint8 [..., 2 m].

    Raises:
        ValueError: there is no such order.
    """
    ### BEGIN SOLUTION
    low, high = packed & 15, packed >> 4
    pair = (low, high) if _low_first(order) else (high, low)
    return torch.stack(pair, dim=-1).flatten(-2)
    ### END SOLUTION


def pack_gptq(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, g_idx: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The four tensors of a linear layer in a four-bit GPTQ checkpoint.

    A word packs eight codes: code k in the bits 4k to 4k + 3, the last one reaching into the sign.

    Args:
        codes: uint8 [out, in], values 0..15.
        scales: [out, groups], a floating dtype.
        zeros: uint8 [out, groups], values 0..15.
        g_idx: int32 [in], the group of each input channel.

    Returns:
        A dict with these keys, in this order:

        - ``qweight``: int32 [in / 8, out]; word [i, o] packs the codes of the input channels
          8i to 8i + 7 of output channel o;
        - ``qzeros``: int32 [groups, out / 8]; word [g, i] packs what is stored for the output
          channels 8i to 8i + 7: the zero point minus one, and 15 for a zero point of 0 (the format
          is older than zero points of 0; a reader adds one and keeps four bits);
        - ``scales``: fp16 [groups, out];
        - ``g_idx``: int32 [in], unchanged.

    Raises:
        ValueError: ``in`` or ``out`` is not a multiple of 8, or a code or zero point is above 15.
    """
    ### BEGIN SOLUTION
    for name, size in (("out", codes.shape[0]), ("in", codes.shape[1])):
        if size % 8:
            raise ValueError(f"{name} is {size}: not whole words of 8 codes")
    _check_codes(codes)
    _check_codes(zeros)
    stored = (zeros.T.to(torch.int32) - 1) & 15
    return {
        "qweight": _pack_words(codes.to(torch.int32)).T.contiguous(),
        "qzeros": _pack_words(stored),
        "scales": scales.T.to(torch.float16).contiguous(),
        "g_idx": g_idx.to(torch.int32),
    }


def _pack_words(values: torch.Tensor) -> torch.Tensor:
    """int32 [rows, 8 n] to int32 [rows, n]: eight fields of four bits to a word."""
    words = torch.zeros(values.shape[0], values.shape[1] // 8, dtype=torch.int32)
    for k in range(8):
        words |= values[:, k::8] << (4 * k)
    return words


def _unpack_words(words: torch.Tensor) -> torch.Tensor:
    """int32 [rows, n] to int32 [rows, 8 n]."""
    # `>>` fills up with the sign: the mask takes that away again.
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    return ((words[:, :, None] >> shifts) & 15).flatten(1)
    ### END SOLUTION


def unpack_gptq(
    tensors: dict[str, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The layer that `pack_gptq` packed.

    Args:
        tensors: ``qweight``, ``qzeros``, ``scales`` and ``g_idx`` as in `pack_gptq`.

    Returns:
        codes: uint8 [out, in].
        scales: fp32 [out, groups], the stored fp16 numbers.
        zeros: uint8 [out, groups]: what is stored plus one, in four bits, so a stored 15 is 0.
        g_idx: int32 [in].
    """
    ### BEGIN SOLUTION
    codes = _unpack_words(tensors["qweight"].T).to(torch.uint8)
    zeros = ((_unpack_words(tensors["qzeros"]) + 1) & 15).T.to(torch.uint8)
    return codes, tensors["scales"].T.to(torch.float32), zeros.contiguous(), tensors["g_idx"]
    ### END SOLUTION
