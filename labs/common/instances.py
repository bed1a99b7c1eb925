"""Cloud instances with GPUs, and what an hour costs. Prices are data with a date: replace them.

On-demand list prices of AWS, Linux, us-east-1, after the cut of June 2025. What you pay depends on
region, commitment and day; no test depends on these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

PRICE_DATE = "2025-06"
PRICE_SOURCE = "AWS EC2 on-demand list price, Linux, us-east-1"


@dataclass(frozen=True)
class Instance:
    """A machine for rent: ``num_gpus`` GPUs of the kind ``gpu``, a key of GPUS; US dollars."""

    key: str
    gpu: str
    num_gpus: int
    dollars_per_hour: float
    source: str = PRICE_SOURCE
    date: str = PRICE_DATE


INSTANCES: dict[str, Instance] = {
    item.key: item
    for item in (
        Instance("g4dn.xlarge", "t4", 1, 0.526),
        Instance("g5.xlarge", "a10g", 1, 1.006),
        Instance("g5.12xlarge", "a10g", 4, 5.672),
        Instance("g6.xlarge", "l4", 1, 0.8048),
        Instance("g6.12xlarge", "l4", 4, 4.6016),
        Instance("g6e.xlarge", "l40s", 1, 1.861),
        Instance("g6e.12xlarge", "l40s", 4, 10.493),
        Instance("p4d.24xlarge", "a100-40", 8, 21.96),
        Instance("p4de.24xlarge", "a100-80", 8, 27.45),
        Instance("p5.4xlarge", "h100-sxm", 1, 6.88),
        Instance("p5.48xlarge", "h100-sxm", 8, 55.04),
        Instance("p5en.48xlarge", "h200", 8, 63.30),
        Instance("p6-b200.48xlarge", "b200", 8, 113.93),
    )
}


def instance(key: str) -> Instance:
    """The instance called ``key``. Raises KeyError naming the known keys."""
    try:
        return INSTANCES[key]
    except KeyError:
        raise KeyError(f"no instance {key!r}; known are {', '.join(INSTANCES)}") from None
