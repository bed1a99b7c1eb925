"""Decimal and binary byte units, kept apart: memory is sold in GB and filled in GiB, 7 % larger."""

from __future__ import annotations

KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12
KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40


def format_bytes(n: float, binary: bool = False) -> str:
    """``n`` bytes with three significant digits: ``16.1 GB``, or ``15.0 GiB`` when ``binary``."""
    step = 1024 if binary else 1000
    names = ("B", "KiB", "MiB", "GiB", "TiB") if binary else ("B", "KB", "MB", "GB", "TB")
    value, unit = float(n), 0
    while abs(value) >= step and unit < len(names) - 1:
        value, unit = value / step, unit + 1
    return f"{value:.3g} {names[unit]}" if abs(value) < 1000 else f"{value:.0f} {names[unit]}"
