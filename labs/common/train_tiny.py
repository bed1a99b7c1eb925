"""Train the two shipped models: `python3 noxfile.py -s train-tiny`.

Under an hour on two cores, minutes on a GPU. Killed, it goes on from its last checkpoint (one a
minute). Initial weights and batches come from seeded generators on the CPU, so that every machine
sees the same data in the same order; sums are then taken in the machine's own order, so losses
agree to many digits at first and drift apart later. ``ship_tiny`` makes the shipped files of it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from labs.common.perplexity import packed_rows
from labs.common.tiny_models import SHAPES, model_config

WORK = Path("results") / "train-tiny"
CHECKPOINT_SECONDS = 60


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on, but for the machine.

    Attributes:
        batch: rows a step; ``length`` tokens are predicted in each.
        warm_up: steps of linear warm-up; then a cosine down to ``floor`` of the peak ``rate``.
        decay: AdamW's weight decay, on matrices only.
        clip: norm to which gradients are cut.
    """

    steps: int
    batch: int = 8
    length: int = 256
    rate: float = 2e-3
    floor: float = 0.02
    warm_up: int = 100
    decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 0."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.rate * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)


RECIPES = {
    "target": Recipe(steps=4000, batch=16, rate=1e-3, warm_up=200),
    "draft": Recipe(steps=4000, rate=4e-3),
}


def batch_at(recipe: Recipe, step: int) -> torch.Tensor:
    """The tokens of one step, int64 [batch, length + 1]; a function of the step alone."""
    return packed_rows("train", recipe.batch, recipe.length + 1, start=step * recipe.batch)


def data_hash(recipe: Recipe, steps: int) -> str:
    """SHA-256 over the tokens of the first ``steps`` batches, as little-endian int16."""
    digest = hashlib.sha256()
    for step in range(steps):
        digest.update(batch_at(recipe, step).numpy().astype("<i2").tobytes())
    return digest.hexdigest()


def new_model(name: str, seed: int) -> Any:
    """An untrained fp32 model, its weights drawn on the CPU in the order of their names.

    Matrices are normal with variance 1 / fan-in (the usual deviation of 0.02 is made for widths of
    thousands: here it leaves attention flat for long), those that write into the residual stream
    less by sqrt(2 layers), as GPT-2's; gains are 1.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {k: v for k, v in model_config(name).items() if "dtype" not in k}
    model = LlamaForCausalLM(LlamaConfig(**settings)).float()
    generator = torch.Generator().manual_seed(seed)
    residual = (2 * SHAPES[name]["num_hidden_layers"]) ** -0.5
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            scale = parameter.shape[-1] ** -0.5
            if key.endswith(("o_proj.weight", "down_proj.weight")):
                scale *= residual
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


class Run:
    """One training run: model, optimizer, losses so far."""

    def __init__(self, name: str, recipe: Recipe, device: str = "cpu") -> None:
        self.name, self.recipe, self.device = name, recipe, device
        self.model = new_model(name, recipe.seed).to(device).train()
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        gains = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": recipe.decay},
             {"params": gains, "weight_decay": 0.0}],
            lr=recipe.rate, betas=recipe.betas, eps=1e-8,
        )  # fmt: skip
        self.losses: list[float] = []
        self.seconds = 0.0

    def step(self) -> float:
        """One step; returns its loss, mean nats a token."""
        began, step = time.perf_counter(), len(self.losses)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(step)
        tokens = batch_at(self.recipe, step).to(self.device)
        logits = self.model(tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.losses.append(loss.item())
        self.seconds += time.perf_counter() - began
        return self.losses[-1]

    def save(self, path: Path) -> None:
        """Write a checkpoint whole or not at all: a kill may come at any time."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "recipe": _plain(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "seconds": self.seconds,
            "made_with": made_with(self.device),
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, path)

    def load(self, path: Path) -> bool:
        """Go on from ``path``; False if there is none, or it is of another recipe."""
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != _plain(self.recipe):
            return False
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses, self.seconds = list(state["losses"]), float(state["seconds"])
        return True


def made_with(device: str) -> dict[str, str]:
    """What a run is made on: device, and versions that its rounding depends on."""
    cpu = f"CPU ({torch.get_num_threads()} threads)"
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu
    return {
        "device": name,
        "torch": str(torch.__version__).partition("+")[0],
        "python": platform.python_version(),
    }


def _plain(recipe: Recipe) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(recipe)))


def train(name: str, recipe: Recipe, work: Path = WORK, device: str = "cpu") -> Run:
    """Train to the end, from the last checkpoint in ``work`` if there is one of this recipe."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    run, path = Run(name, recipe, device), work / f"{name}.pt"
    resumed = run.load(path)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        done = len(run.losses)
        loss = run.losses[-1] if run.losses else math.nan
        bar = progress.add_task(name, total=recipe.steps, completed=done, loss=loss)
        if resumed:
            progress.console.print(f"{name}: from step {done}")
        saved = time.monotonic()
        while len(run.losses) < recipe.steps:
            loss = run.step()
            progress.update(bar, advance=1, loss=loss)
            if not progress.console.is_terminal and len(run.losses) % 100 == 0:
                progress.console.print(
                    f"{name} {len(run.losses)}/{recipe.steps} loss {loss:.3f} {run.seconds:.0f} s"
                )
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                run.save(path)
                saved = time.monotonic()
    run.save(path)
    return run


def main() -> None:
    """Train both models, then (with ``--ship``) write the shipped files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", choices=[*RECIPES, "both"], default="both")
    parser.add_argument("--work", type=Path, default=WORK, help="where checkpoints are kept")
    parser.add_argument("--steps", type=int, help="fewer or more than the recipe's")
    parser.add_argument("--device", help="cuda where there is a GPU, else cpu")
    parser.add_argument("--ship", action="store_true", help="replace the shipped models")
    args = parser.parse_args()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_flush_denormal(True)  # denormals nearly double the time on a CPU
    for name in RECIPES if args.model == "both" else (args.model,):
        recipe = RECIPES[name]
        if args.steps:
            recipe = Recipe(**{**asdict(recipe), "steps": args.steps})
        with contextlib.suppress(KeyboardInterrupt):
            train(name, recipe, args.work, device)
            continue
        print(f"{name}: interrupted; the same command goes on from the last checkpoint")
        return
    if args.ship:
        from labs.common.ship_tiny import ship

        ship(args.work)


if __name__ == "__main__":
    main()
