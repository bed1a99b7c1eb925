"""Which GPUs there are, without importing torch, and how jobs share them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from graders.classroom.discover import ClassError


@dataclass(frozen=True)
class Lease:
    """GPUs to grade on, by the name CUDA_VISIBLE_DEVICES takes; none means the CPU alone."""

    gpus: tuple[str, ...] = ()
    name: str = "cpu"  # what a result depends on: the device's model
    per_gpu: int = 1

    def slots(self, jobs: int) -> int:
        """How many jobs may run at once: never more than there are leases."""
        return min(jobs, len(self.gpus) * self.per_gpu) if self.gpus else jobs


def lease(device: str, wanted: str, per_gpu: int) -> Lease:
    """The GPUs for ``--device`` and ``--gpus`` (``all`` or ``0,1``). Raises ClassError."""
    if per_gpu < 1:
        raise ClassError("--per-gpu counts the jobs that share a GPU: 1 or more")
    if device == "cpu":
        return Lease()
    there = _list()
    chosen = list(there) if wanted == "all" else [name.strip() for name in wanted.split(",")]
    if not there:
        if device == "cuda" or wanted != "all":
            option = "--device cuda" if device == "cuda" else f"--gpus {wanted}"
            raise ClassError(f"{option} was asked for, but nvidia-smi lists no GPU here")
        return Lease()
    if unknown := [name for name in chosen if name not in there]:
        raise ClassError(f"there is no GPU {unknown[0]!r}; there are {', '.join(there)}")
    models = sorted({there[name].model for name in chosen})
    if len(models) > 1:
        raise ClassError(
            f"these GPUs differ ({', '.join(models)}), and students' points would too: "
            "name those of one kind with --gpus"
        )
    return Lease(tuple(dict.fromkeys(there[name].uuid for name in chosen)), models[0], per_gpu)


@dataclass(frozen=True)
class _Gpu:
    """A GPU as nvidia-smi lists it. CUDA may count in another order: its uuid is unambiguous."""

    index: str
    uuid: str
    model: str


def _list() -> dict[str, _Gpu]:
    """The GPUs that this process may use, by the number or uuid that names them here."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if said.returncode != 0:
        return {}
    rows = [line.split(",", 2) for line in said.stdout.splitlines()]
    gpus = [_Gpu(*(part.strip() for part in row)) for row in rows if len(row) == 3]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return {gpu.index: gpu for gpu in gpus}
    named = {gpu.index: gpu for gpu in gpus} | {gpu.uuid: gpu for gpu in gpus}
    names = [name.strip() for name in visible.split(",")]
    return {name: named[name] for name in names if name in named}
