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
    raise NotImplementedError("pack_nibbles: your code here")


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
    raise NotImplementedError("unpack_nibbles: your code here")


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
    raise NotImplementedError("pack_gptq: your code here")


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
    raise NotImplementedError("unpack_gptq: your code here")
