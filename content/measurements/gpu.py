"""Measure the labs' GPU tiers on this machine and keep the raw figures.

    python3 content/measurements/gpu.py --out DIR [--labs lab01,lab02] [--quick]

Writes ``DIR/<lab>-<gpu>.json`` (the record of the solution, graded) for each lab, and with lab 01
``DIR/fast_decode-<gpu>.json``: its decoder in its variants, in this process, beside copy bandwidth
and transformers' generate; with lab 03 ``DIR/int4_kernel-<gpu>.json``: its kernel in its tile
sizes beside cuBLAS in bf16, torch's own int4 and bitsandbytes' NF4. All samples are kept. A part
that fails is written down as its error, and the others go on. Needs the labs' packages; without a
GPU it says so and ends with 3.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 - after the path

from graders.hidden.graphs import graphed  # noqa: E402
from graders.lab01 import fast  # noqa: E402
from graders.lab03 import int4  # noqa: E402
from graders.oracle import gpu  # noqa: E402

# Each adds one thing to the one before. Kernels of our own exist for one sequence only.
VARIANTS = {
    "eager": {"graph": False, "compiled": False, "kernels": False},
    "graph": {"compiled": False, "kernels": False},
    "graph, compiled": {"kernels": False},
    "graph, kernels": {"overlap": False},
    "graph, kernels, overlap": {},
}
BATCHES = (1, 32)
GRADE_TIMEOUT_S = 300
TINY = fast.Workload(
    vocab_size=97, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
    intermediate_size=96, prompt=5, steps=6, calls=2, reference_calls=1, calibration_rows=64,
)  # fmt: skip
# Lab 03: output and input channels; what a graph holds must be many times any cache.
SHAPES = ((4096, 14336), (14336, 4096), (4096, 4096))
INT4_BATCHES = (1, 16)
STACK_BYTES = 3 * 2**30
# Tiles as in int4_cuda: warps of a block, 16s of rows of a block, stages of the ring.
INT4_TILES = (
    (1, 1, 4), (1, 2, 4), (2, 1, 4), (2, 2, 4), (4, 1, 4), (4, 1, 6), (7, 1, 4),
    (4, 2, 3), (8, 1, 3), (14, 1, 2), (2, 2, 6),
)  # fmt: skip


def grade(lab: str, device: str, path: Path) -> dict[str, Any]:
    """Grade the lab's solution in a process of its own; what the table says of it."""
    # With "auto" the CPU tier stays on the CPU, and the GPU tier runs where there is a GPU.
    choice = "cpu" if device == "cpu" else "auto"
    command = [
        sys.executable, "-m", "graders", "grade", lab, "--target", "solution", "--device", choice,
        "--json", str(path),
    ]  # fmt: skip
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=GRADE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return {"error": f"grading took more than {GRADE_TIMEOUT_S} s"}
    seconds = time.perf_counter() - started
    if not path.exists():
        return {"error": done.stderr[-2000:] or f"exit status {done.returncode}"}
    record = json.loads(path.read_text())
    lines = []
    for task in record["tasks"]:
        if task["tier"] == "gpu" or task["earned"] < task["points"]:
            lines.append(f"{task['id']}: {task['earned']:g} of {task['points']:g}")
        for test in task["tests"]:
            lines += [note for note in test.get("notes", []) if note not in lines]
            if test["outcome"] not in ("passed", "not_attempted"):
                message, got = test["message"], test["got"]
                lines.append(f"  {test['id']} {test['outcome']}: {message} (got {got})"[:500])
    return {"seconds": seconds, "exit_status": done.returncode, "lines": lines}


def variant(
    work: fast.Workload,
    batch: int,
    switches: dict[str, bool],
    folder: Path,
    reference: Any,
    rounding: fast.Rounding,
    device: str,
) -> dict[str, Any]:
    """Raw samples of one variant of the solution's decoder, every output checked."""
    from solutions.lab01_token_generation.fast_decode import FastDecoder
    from solutions.lab01_token_generation.model import load_model

    generator = torch.Generator().manual_seed(batch)
    started = time.perf_counter()
    model = load_model(folder, work.dtype, device)
    with warnings.catch_warnings(record=True) as said:  # a variant that fell back says so
        warnings.simplefilter("always")
        decoder = FastDecoder(model, batch, work.max_len, **switches)
    gpu.synchronize(device)
    found: dict[str, Any] = {
        "setup_s": time.perf_counter() - started,
        "warnings": [str(one.message) for one in said],
    }
    prefill_s, decode_s = [], []
    for _ in range(work.calls + 1):
        prompts = torch.randint(work.vocab_size, (batch, work.prompt), generator=generator)
        given = prompts.to(device)
        seconds, first = gpu.timed(lambda given=given: decoder.prefill(given).cpu(), device)
        prefill_s.append(seconds)
        seconds, rest = gpu.timed(lambda: decoder.decode(work.steps).cpu(), device)
        decode_s.append(seconds)
        tokens = torch.cat((first[:, None], rest), dim=1)
        fast.check_tokens(work, reference, rounding, prompts, tokens, device)
    copy = gpu.copy_bandwidth(device)
    median = statistics.median(decode_s[1:])
    both = statistics.median(a + b for a, b in zip(prefill_s[1:], decode_s[1:], strict=True))
    return found | {
        "prefill_samples_s": prefill_s[1:],
        "decode_samples_s": decode_s[1:],
        "step_s": median / work.steps,
        "tokens_per_s": batch * work.steps / median,
        "decode_fraction": work.decode_bytes(batch) / median / copy,
        "fraction": work.bytes_moved(batch) / both / copy,
    }


def library(work: fast.Workload, batch: int, reference: Any, device: str) -> dict[str, Any]:
    """Raw samples of transformers' generate on the same model."""
    generator = torch.Generator().manual_seed(batch)
    samples = []
    for _ in range(work.reference_calls + 1):
        prompts = torch.randint(work.vocab_size, (batch, work.prompt), generator=generator)
        samples.append(fast.generate_seconds(work, reference, prompts, device))
    median = statistics.median(samples[1:])
    return {
        "samples_s": samples[1:],
        "tokens_per_s": batch * (work.steps + 1) / median,
        "fraction": work.bytes_moved(batch) / median / gpu.copy_bandwidth(device),
    }


def attempt(into: dict[str, Any], name: str, make: Any) -> None:
    """Keep what ``make`` returns under ``name``, or the error it ends with."""
    print(f"{name} ...", flush=True)
    started = time.perf_counter()
    try:
        into[name] = make()
    except Exception as error:
        detail = {k: str(getattr(error, k, "")) for k in ("expected", "got")}
        traceback.print_exc()  # not kept: it is full of this machine's paths
        into[name] = {"error": f"{type(error).__name__}: {error}"[:2000]} | {
            k: v for k, v in detail.items() if v
        }
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)


def decoders(
    found: dict[str, Any], work: fast.Workload, device: str, save: Callable[[], None]
) -> None:
    """Every variant at every batch size, and what it is compared with, into ``found``."""
    found["workload"] = {k: str(v) for k, v in vars(work).items()}
    attempt(found, "copy_bandwidth", lambda: gpu.copy_bandwidth(device))
    attempt(found, "matmul_rate", lambda: gpu.matmul_rate(device))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"

        def prepare() -> tuple[Any, fast.Rounding]:
            fast.write_checkpoint(work, folder, 0, device)
            reference = fast.load_reference(work, folder, device)
            return reference, fast.calibrate(work, reference, device, 0)

        made: dict[str, Any] = {}
        attempt(made, "reference", prepare)
        if isinstance(made["reference"], dict):
            found |= made
            return
        reference, rounding = made["reference"]
        found["rounding"] = vars(rounding) | {"tolerance": rounding.tolerance}
        for batch in BATCHES:
            at: dict[str, Any] = {}
            found[f"batch {batch}"] = at
            for name, switches in VARIANTS.items():
                if batch > 1 and switches.get("kernels", True):
                    continue
                attempt(
                    at,
                    name,
                    lambda batch=batch, switches=switches: variant(
                        work, batch, switches, folder, reference, rounding, device
                    ),
                )
            attempt(
                at,
                "transformers generate",
                lambda batch=batch: library(work, batch, reference, device),
            )
            save()


def product_times(
    one: Callable[[Any, torch.Tensor], torch.Tensor],
    weights: list[Any],
    x: torch.Tensor,
    weight_bytes: float,
    device: str,
    count: int | None = None,
) -> dict[str, Any]:
    """Raw seconds of one product: of a graph over all ``weights``, divided by ``count``.

    That is their number when left out.
    """
    count = count or len(weights)
    once = graphed(lambda: [one(w, x) for w in weights], device)
    samples = [t / count for t in gpu.device_times(once, device, samples=7, warm_up=2)]
    median = statistics.median(samples)
    return {"samples_s": samples} | rates(median, weight_bytes + x.nbytes, device)


def rates(seconds: float, moved: float, device: str) -> dict[str, float]:
    """What moving so many bytes in this time comes to."""
    bandwidth = moved / seconds
    return {
        "median_s": seconds,
        "bandwidth": bandwidth,
        "fraction": bandwidth / gpu.copy_bandwidth(device),
    }


def int4_variants(
    found: dict[str, Any], shape: tuple[int, int], batch: int, device: str, few: bool
) -> None:
    """The kernel at one shape and batch size in every tile, and the libraries', into ``found``.

    "alone": every product is a launch of its own. "stacked": one launch makes them all.
    """
    from solutions.lab03_quantization import int4_cuda, int4_kernel

    rows, columns, group = *shape, 128
    work = int4.Workload(rows=rows, columns=columns)
    generator = torch.Generator(device=device).manual_seed(rows + batch)
    x = torch.randn(batch, columns, generator=generator, device=device).to(work.dtype)
    count = max(4, (2**16 if device == "cpu" else STACK_BYTES) // work.matrix_bytes)
    whole = int4.random_layer(rows * count, columns, group, generator)
    layers: list[int4.Layer] = list(zip(*(part.split(rows) for part in whole), strict=True))
    first = layers[0]
    exact, norm = int4.products(x, int4.exact_weights(first, group))

    def ours(tile: tuple[int, int, int] | None, stacked: bool) -> dict[str, Any]:
        out = x.new_empty(batch, len(whole[0]) if stacked else rows)
        ready = int4_cuda.prepare(x)

        def one(layer: int4.Layer, _: torch.Tensor) -> None:
            if device == "cpu":  # the kernel is a GPU's; this only tries the rest of the script
                out.copy_(int4_kernel.matmul_int4(x, *layer, group))
            else:
                int4_cuda.multiply(ready, *layer, out, tile)

        one(whole if stacked else first, x)
        off = (out[:, :rows].double() - exact).abs() / (norm + exact.abs())
        if float(off.max()) > 4 * torch.finfo(x.dtype).eps:
            raise ValueError(f"wrong products: off by {float(off.max()):.3g} of the norm")
        times = product_times(
            one, [whole] if stacked else layers, x, work.matrix_bytes, device, count
        )
        return times | {"off": float(off.max())}

    for tile in (None, *(() if few else INT4_TILES)):
        for name in ("stacked", "alone"):
            attempt(
                found,
                f"ours {name} {tile or 'default'}",
                lambda tile=tile, name=name: ours(tile, name == "stacked"),
            )
    attempt(found, "torch int4", lambda: torch_int4(x, rows, columns, group, count, device))
    attempt(found, "bitsandbytes NF4", lambda: nf4(work, batch, device))
    wide = [
        torch.randn(rows, columns, generator=generator, device=device).to(work.dtype)
        for _ in range(max(4, count // 4))
    ]
    attempt(
        found,
        "cuBLAS bf16",
        lambda: product_times(
            lambda w, x: torch.nn.functional.linear(x, w), wide, x, wide[0].nbytes, device
        ),
    )


def nf4(work: int4.Workload, batch: int, device: str) -> dict[str, Any]:
    """bitsandbytes' product with NF4 weights."""
    seconds = int4.bitsandbytes_s(work, batch, device)
    if seconds is None:
        raise RuntimeError("bitsandbytes is not installed, or does not run on this GPU")
    moved = work.rows * work.columns / 2 * (1 + 4 / 32)  # codes, and an fp32 scale for every 64
    return rates(seconds, moved, device)


def bitsandbytes_layers(device: str) -> dict[str, Any]:
    """bitsandbytes' own layers beside nn.Linear: memory that they keep, and seconds of a call.

    Calls are made as PyTorch makes them, launches included, one after the other over twelve layers.
    """
    import bitsandbytes as bnb

    rows, columns = SHAPES[0]
    makers: dict[str, Callable[[], torch.nn.Module]] = {
        "nn.Linear bf16": lambda: torch.nn.Linear(columns, rows, bias=False, dtype=torch.bfloat16),
        "Linear4bit nf4": lambda: bnb.nn.Linear4bit(
            columns, rows, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4",
            compress_statistics=False,
        ),
        "Linear4bit nf4, double": lambda: bnb.nn.Linear4bit(
            columns, rows, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4",
            compress_statistics=True,
        ),
        "Linear8bitLt, threshold 6": lambda: bnb.nn.Linear8bitLt(
            columns, rows, bias=False, has_fp16_weights=False, threshold=6.0
        ),
    }  # fmt: skip
    found: dict[str, Any] = {"shape": [rows, columns]}
    for name, make in makers.items():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        layers = [make().to(device) for _ in range(12)]
        at: dict[str, Any] = {}
        for batch in INT4_BATCHES:
            # Outliers as in a large model, or LLM.int8 has nothing to keep apart.
            dtype = torch.float16 if "8bit" in name else torch.bfloat16
            x = torch.randn(batch, columns, device=device)
            x[:, ::2048] *= 30
            x = x.to(dtype)
            with torch.inference_mode():
                times = gpu.device_times(
                    lambda layers=layers, x=x: [layer(x) for layer in layers], device
                )
            at[f"batch {batch}"] = [t / len(layers) for t in times]
        del x
        gc.collect()
        at["bytes_a_layer"] = (torch.cuda.memory_allocated() - before) / len(layers)
        found[name] = at
        del layers
        gc.collect()
        torch.cuda.empty_cache()
    return found


def torch_int4(
    x: torch.Tensor, rows: int, columns: int, group: int, count: int, device: str
) -> dict[str, Any]:
    """torch's own product with packed int4 weights, on random ones."""
    packed, inner = [], 8
    for _ in range(count):
        codes = torch.randint(256, (rows, columns // 2), dtype=torch.uint8, device=device)
        weights = torch._convert_weight_to_int4pack(codes, inner)
        scales = torch.rand(columns // group, rows, 2, device=device).to(x.dtype)
        packed.append((weights, scales))
    return product_times(
        lambda w, x: torch._weight_int4pack_mm(x, w[0], group, w[1]),
        packed, x, packed[0][0].nbytes + packed[0][1].nbytes, device,
    )  # fmt: skip


def int4_table(found: dict[str, Any]) -> list[str]:
    """Every variant in a line, the fastest first."""
    lines = []
    for name, at in found.items():
        if not name.startswith("["):
            continue
        times = {k: row["median_s"] for k, row in at.items() if "median_s" in row}
        base = times.get("cuBLAS bf16", float("nan"))
        for variant_name in sorted(times, key=times.__getitem__):
            row = at[variant_name]
            lines.append(
                f"{name} {variant_name:<32} {row['median_s'] * 1e6:7.2f} us  "
                f"fraction {row['fraction']:.3f}  of cuBLAS {base / row['median_s']:.2f}x"
            )
        lines += [f"{name} {k:<32} {row['error'][:160]}" for k, row in at.items() if "error" in row]
    return lines


def table(found: dict[str, Any], graded: dict[str, dict[str, Any]]) -> list[str]:
    """What came out, in lines short enough to read."""
    copy = found.get("copy_bandwidth")
    lines = [f"copy bandwidth {copy / 1e12:.3f} TB/s" if isinstance(copy, float) else str(copy)]
    for batch in BATCHES:
        at = found.get(f"batch {batch}", {})
        base = at.get("transformers generate", {}).get("tokens_per_s")
        for name, row in at.items():
            if "error" in row:
                lines.append(f"batch {batch:<3} {name:<22} {row['error'][:160]}")
                continue
            alone = f"{row['decode_fraction']:.3f}" if "decode_fraction" in row else "-"
            ratio = f"{row['tokens_per_s'] / base:.2f}x" if base else "-"
            lines.append(
                f"batch {batch:<3} {name:<22} {row['tokens_per_s']:>9.0f} tokens/s  "
                f"fraction {row['fraction']:.3f}  decode alone {alone}  of generate {ratio}"
            )
            lines += [f"  {text[:300]}" for text in row.get("warnings", [])]
    for lab, row in graded.items():
        said = row["error"][:500] if "error" in row else f"{row['seconds']:.0f} s"
        lines.append(f"{lab}: {said}")
        lines += [f"  {line}" for line in row.get("lines", [])]
    return lines


def main() -> int:
    """Run all parts; the exit status is 1 if one failed, 3 if there is no GPU."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    options.add_argument("--labs", default="lab01,lab02", help="labs to grade, with commas between")
    options.add_argument("--quick", action="store_true", help="fewer calls; no lab is graded")
    options.add_argument(
        "--cpu", action="store_true", help="try the script itself: a tiny model on the CPU"
    )
    given = options.parse_args()
    if not given.cpu and not torch.cuda.is_available():
        print("No CUDA device: torch sees none, so there is nothing to measure here.")
        return 3
    device = "cpu" if given.cpu else "cuda"
    labs = [lab for lab in given.labs.split(",") if lab]
    work = TINY if given.cpu else fast.Workload(**({"calls": 3} if given.quick else {}))
    given.out.mkdir(parents=True, exist_ok=True)
    facts = gpu.device_facts(device)
    name = re.sub(r"[^A-Za-z0-9]+", "-", str(facts["device"])).strip("-").lower()
    versions = {"python": sys.version.split()[0]}
    for package in ("torch", "triton", "transformers", "safetensors"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    print(f"{facts['device']} ({gpus} visible, the first is used), {versions}", flush=True)

    graded: dict[str, dict[str, Any]] = {}
    for lab in [] if given.quick else labs:
        path = given.out / f"{lab}-{name}.json"
        path.unlink(missing_ok=True)
        attempt(graded, lab, lambda lab=lab, path=path: grade(lab, device, path))
    failed = '"error"' in json.dumps(graded)

    def keep(what: str, found: dict[str, Any]) -> None:
        # After every part: a run cut short leaves what it had.
        nonlocal failed
        text = json.dumps(found, indent=1) + "\n"
        (given.out / f"{what}-{name}.json").write_text(text)
        failed = failed or '"error"' in text

    base = {"facts": facts, "versions": versions, "gpus_visible": gpus, "graded": graded}
    lines = []
    if "lab03" in labs:
        found: dict[str, Any] = dict(base)
        attempt(found, "copy_bandwidth", lambda: gpu.copy_bandwidth(device))
        for shape in ((64, 256),) if given.cpu else SHAPES:
            for batch in INT4_BATCHES:
                at = found[f"{list(shape)} batch {batch}"] = {}
                few = given.quick or shape != SHAPES[0]
                int4_variants(at, shape, batch, device, few)
                keep("int4_kernel", found)
        attempt(found, "bitsandbytes layers", lambda: bitsandbytes_layers(device))
        keep("int4_kernel", found)
        lines += int4_table(found)
    if "lab01" in labs:
        found = dict(base)
        decoders(found, work, device, lambda: keep("fast_decode", found))
        keep("fast_decode", found)
    else:
        found = {"copy_bandwidth": gpu.copy_bandwidth(device)}
    print("\n".join(lines + table(found, graded)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
