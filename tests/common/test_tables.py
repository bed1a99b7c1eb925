"""The course library's tables against configurations built for real; the tiny checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from graders.lab02.reference import groups_on_meta
from labs.common.formats import FORMATS
from labs.common.hardware import GPUS, gpu
from labs.common.instances import INSTANCES
from labs.common.models import MODELS, PARAMETER_COUNTS, ModelConfig, model
from labs.common.tiny import tiny_checkpoint
from labs.common.units import GB, GIB, format_bytes


@pytest.mark.parametrize("key", MODELS)
def test_parameter_count_is_exact(key: str) -> None:
    assert sum(groups_on_meta(MODELS[key]).values()) == PARAMETER_COUNTS[key]


@pytest.mark.parametrize("table", [GPUS, MODELS, FORMATS, INSTANCES])
def test_rows_have_a_source_and_agree_with_their_keys(table: dict[str, Any]) -> None:
    for key, row in table.items():
        assert row.key == key and row.source
        assert row.key in FORMATS or row.date  # a format's definition does not age


def test_instances_have_known_gpus() -> None:
    assert {instance.gpu for instance in INSTANCES.values()} <= GPUS.keys()


def test_every_model_has_its_count_beside_it_not_in_it() -> None:
    # A configuration crosses to the submission; the answer must not cross with it.
    assert PARAMETER_COUNTS.keys() == MODELS.keys()
    assert not any("param" in field for field in ModelConfig.__dataclass_fields__)


def test_memory_is_what_the_driver_reports() -> None:
    for row in GPUS.values():
        assert 0.93 * row.marketed_gb < row.memory_bytes / GIB < 1.03 * row.marketed_gb, row.key


def test_ridge_points_of_known_gpus() -> None:
    ridge = {
        key: gpu(key).dense_flops["bf16"] / gpu(key).memory_bandwidth
        for key in ("a100-80", "h100-sxm", "h200")
    }
    assert ridge == pytest.approx({"a100-80": 153.0, "h100-sxm": 295.3, "h200": 206.1}, rel=1e-3)


def test_unknown_keys_name_the_known_ones() -> None:
    with pytest.raises(KeyError, match="h200"):
        gpu("h300")
    with pytest.raises(KeyError, match="llama-3-8b"):
        model("llama-9")


def test_units_keep_gb_and_gib_apart() -> None:
    assert (GB, GIB) == (1_000_000_000, 1_073_741_824)
    weights = 2 * PARAMETER_COUNTS["llama-3-8b"]
    assert format_bytes(weights) == "16.1 GB" and format_bytes(weights, binary=True) == "15 GiB"


def test_tiny_checkpoint_is_the_same_every_time_and_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def digests(folder: Path) -> dict[str, str]:
        return {
            f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())
        }

    one, two = tiny_checkpoint(tmp_path / "one"), tiny_checkpoint(tmp_path / "two")
    assert digests(one) == digests(two)
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in one.iterdir())
    tokenizer = AutoTokenizer.from_pretrained(one)
    text = "déjà vu 東京 🙂 def f(x):\n\treturn x"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    loaded = AutoModelForCausalLM.from_pretrained(one)
    assert torch.isfinite(loaded(torch.tensor([[1, 2, 3]])).logits).all()
