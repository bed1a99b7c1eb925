"""The corpus, the two shipped models and their card: the same everywhere, and as good as stated."""

from __future__ import annotations

import doctest
import itertools
import json
import stat
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from labs.common import measure_tiny as measure
from labs.common import ship_tiny
from labs.common.corpus import KINDS, corpus_hash, document, documents, is_held_out
from labs.common.perplexity import (
    calibration_tokens,
    encode,
    evaluation_tokens,
    packed_rows,
    perplexity,
    shipped_tokenizer,
)
from labs.common.tiny_models import (
    DRAFT,
    FOLDER,
    OUTLIER_EXPONENT,
    TARGET,
    load_tiny,
    model_config,
    outlier_channels,
    plant_outliers,
    train_tokenizer,
)
from labs.common.train_tiny import RECIPES, Recipe, Run, data_hash, train

ROOT = Path(__file__).resolve().parents[2]
TRAINING: dict[str, Any] = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
EVALUATION: dict[str, Any] = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def target() -> Any:
    return load_tiny("target")


@pytest.fixture(scope="module")
def draft() -> Any:
    return load_tiny("draft")


# -- the text


def test_the_text_is_the_same_everywhere() -> None:
    count, kept = ship_tiny.HASHED_DOCUMENTS, TRAINING["corpus"]
    assert corpus_hash(count) == kept["train_sha256"]
    assert corpus_hash(count, "evaluation", held_out=True) == kept["held_out_sha256"]


def test_the_text_does_not_depend_on_the_hash_seed() -> None:
    code = "from labs.common.corpus import corpus_hash; print(corpus_hash(300))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {corpus_hash(300) + "\n"}


def test_training_and_held_out_share_no_document() -> None:
    sides: dict[bool, set[str]] = {
        side: {
            document(stream, i, held_out=side, kind=kind).text
            for stream in ("train", "evaluation", "calibration-0")
            for kind in (None, *KINDS)
            for i in range(200)
        }
        for side in (False, True)
    }
    assert not sides[False] & sides[True]
    assert all(is_held_out(text) == side for side, texts in sides.items() for text in texts)


def test_a_stream_can_be_entered_anywhere() -> None:
    whole = list(itertools.islice(documents("train"), 30))
    assert list(itertools.islice(documents("train", start=20), 10)) == whole[20:]
    assert {item.kind for item in whole} == set(KINDS)
    assert next(documents("other")) != whole[0]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="poem.*story"):
        document("train", 0, kind="poem")


def test_sums_are_right() -> None:
    for index in range(200):
        for line in document("train", index, kind="sums").text.splitlines():
            left, _, right = line.partition(" = ")
            assert eval(left) == int(right), line


def test_records_are_json_and_add_up() -> None:
    seen = set()
    for index in range(200):
        record = json.loads(document("train", index, kind="record").text)
        seen.add(record["type"])
        if record["type"] == "person":
            assert record["count"] == len(record["things"])
        if record["type"] == "order":
            assert record["total"] == sum(x["quantity"] * x["price"] for x in record["lines"])
        if record["type"] == "weather":
            assert record["low"] < record["high"]
    assert seen == {"person", "order", "weather"}


def test_code_does_what_its_session_shows() -> None:
    for index in range(200):
        text = document("train", index, kind="code").text
        source, _, session = text.partition("\n\n")
        names: dict[str, Any] = {}
        exec(source, names)
        test = doctest.DocTestParser().get_doctest(session + "\n", names, f"code {index}", None, 0)
        assert test.examples
        assert doctest.DocTestRunner(verbose=False).run(test).failed == 0, text


def test_stories_answer_from_their_own_text() -> None:
    for index in range(300):
        story, *questions = document("train", index, kind="story").text.split("\n")
        for line in questions:
            question, answer = line.split("? ")
            if question.startswith("What colour"):
                thing, colour = question.split()[-1], answer.split()[-1].rstrip(".")
                assert f"{colour} {thing}." in story
            if question.startswith("Where is") and " She " not in line and " He " not in line:
                assert f"into the {answer.split()[4]}" in story
            if question.startswith("Who has"):
                name, thing = answer.split()[0], question.split()[-1]
                last = [s for s in story.split(". ") if f" {thing}" in s][-1]
                assert name in story and thing in last


# -- the tokenizer


def test_the_tokenizer_can_be_made_again(tmp_path: Path) -> None:
    train_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for shipped in (TARGET, DRAFT):
            assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes()


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_every_string_round_trips(text: str) -> None:
    tokenizer = shipped_tokenizer()
    ids = tokenizer.encode(text.replace("<", "("), add_special_tokens=False)
    assert tokenizer.decode(ids) == text.replace("<", "(")


def test_the_tokenizer_has_its_special_tokens_and_every_byte() -> None:
    tokenizer = shipped_tokenizer()
    assert len(tokenizer) == 2048
    assert tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<pad>"]) == [0, 1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    raw = bytes(range(256)).decode("latin-1")
    assert tokenizer.decode(tokenizer.encode(raw, add_special_tokens=False)) == raw
    assert tokenizer("7").input_ids == [0, *tokenizer.encode("7", add_special_tokens=False)]
    assert encode(tokenizer, "7")[0] == 0 and encode(tokenizer, "7")[-1] == 1


def test_digits_stay_single() -> None:
    tokens = shipped_tokenizer().tokenize("105 + 27 = 132")
    assert all(sum(c.isdigit() for c in token) <= 1 for token in tokens)


# -- the files


def test_the_manifest_is_true_and_small() -> None:
    kept = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    assert kept == ship_tiny.manifest()
    assert sum(item["bytes"] for item in kept.values()) < 16_000_000
    assert {"target/model.safetensors", "draft/model.safetensors", "README.md"} <= set(kept)


def test_another_uid_can_read_every_file() -> None:
    for path in FOLDER.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert (mode & 0o444 == 0o444) if path.is_file() else (mode & 0o555 == 0o555), path
        assert not path.is_file() or not mode & 0o111, path


def test_the_card_says_what_was_measured() -> None:
    assert (FOLDER / "README.md").read_text("utf-8") == ship_tiny.card(TRAINING, EVALUATION)
    assert (FOLDER / "loss.svg").read_text("utf-8") == ship_tiny.curve_svg(TRAINING)


@pytest.mark.parametrize("name", RECIPES)
def test_config_and_weights_belong_together(name: str) -> None:
    config = json.loads((FOLDER / name / "config.json").read_text())
    assert config == model_config(name)
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    weights = load_file(FOLDER / name / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    assert sum(w.numel() for w in weights.values()) == TRAINING[name]["parameters"]
    assert ("lm_head.weight" in weights) != config["tie_word_embeddings"]
    for key, weight in weights.items():
        step = 256 if name == "target" else 128
        assert weight.shape[-1] % step == 0, f"{key}: groups of {step} do not fit"


def test_sizes_are_as_promised(target: Any, draft: Any) -> None:
    assert 3e6 < target[0].num_parameters() < 6e6
    assert draft[0].num_parameters() < 1e6
    assert target[0].config.num_key_value_heads < target[0].config.num_attention_heads
    assert target[1].get_vocab() == draft[1].get_vocab()
    assert target[0].dtype == torch.float32 and not target[0].training


def test_load_tiny_takes_a_path_as_well(tmp_path: Path) -> None:
    by_path, tokenizer = load_tiny(TARGET, dtype=torch.bfloat16)
    assert by_path.dtype == torch.bfloat16
    by_path.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, same = load_tiny(tmp_path, dtype=torch.bfloat16)
    assert same.encode("Ada has 2 keys.") == tokenizer.encode("Ada has 2 keys.")
    for (name, a), (_, b) in zip(by_path.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name


# -- quality


def test_perplexity_is_the_cards(target: Any, draft: Any) -> None:
    for name, (model, _) in (("target", target), ("draft", draft)):
        kept = EVALUATION["models"][name]["by_kind"]["mixed"]
        found = perplexity(model)
        assert found.perplexity == pytest.approx(kept["perplexity"], rel=0.01)
        assert found.bits_per_byte == pytest.approx(kept["bits_per_byte"], rel=0.01)
        assert found.tokens == evaluation_tokens().numel() - len(evaluation_tokens())
    by_kind = {n: EVALUATION["models"][n]["by_kind"] for n in RECIPES}
    for kind in KINDS:
        assert by_kind["target"][kind]["nll"] < by_kind["draft"][kind]["nll"]
    rows = evaluation_tokens("sums", rows=32)
    assert perplexity(target[0], rows).perplexity == pytest.approx(
        by_kind["target"]["sums"]["perplexity"], rel=0.01
    )


def test_the_target_computes(target: Any) -> None:
    # A result of one or two digits: chance is below one in ten.
    assert measure.right_answers(*target, "sums", count=20) >= 0.4
    assert measure.right_answers(*target, "code", count=10) >= 0.4


def test_the_target_remembers_its_story(target: Any) -> None:
    assert measure.right_answers(*target, "story", count=10) >= 0.4


def test_the_target_writes_json(target: Any) -> None:
    records = measure.valid_records(*target)
    assert [r and r["type"] for r in records] == ["person", "order", "weather"]


def test_the_draft_foretells_the_target(target: Any, draft: Any) -> None:
    kept = EVALUATION["acceptance"]
    found = measure.acceptance(target[0], draft[0], evaluation_tokens("record", rows=8))
    assert found["sampled"] == pytest.approx(kept["record"]["sampled"], abs=0.05)
    same = measure.acceptance(target[0], target[0], evaluation_tokens(rows=2))
    assert same["sampled"] == pytest.approx(1, abs=1e-5) and same["greedy"] == 1
    assert all(0.3 < v["sampled"] < 0.99 for v in kept.values())


# -- perplexity and its tokens


def test_perplexity_of_what_can_be_computed_by_hand() -> None:
    tokens = torch.tensor([[0, 3, 1], [2, 2, 3]])
    uniform = perplexity(lambda rows: torch.zeros(*rows.shape, 4), tokens)
    assert uniform.perplexity == pytest.approx(4) and uniform.tokens == 4

    def knows(rows: torch.Tensor) -> torch.Tensor:
        """All mass on the next token: only a protocol that shifts by one gets 1 out of it."""
        following = torch.nn.functional.pad(rows[:, 1:], (0, 1))
        return 100.0 * torch.nn.functional.one_hot(following, 4)

    assert perplexity(knows, tokens).perplexity == pytest.approx(1)
    skewed = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    found = perplexity(lambda rows: skewed.expand(*rows.shape, 4), tokens)
    assert found.perplexity == pytest.approx((8 * 4 * 8 * 8) ** 0.25)


def test_perplexity_counts_in_fp32_and_leaves_the_model_as_it_was(draft: Any) -> None:
    model, _ = draft
    rows = evaluation_tokens()[:3]
    reference = perplexity(lambda r: model(r).logits.double(), rows)
    model.train()
    try:
        assert perplexity(model, rows).nll == pytest.approx(reference.nll, rel=1e-6)
        assert model.training
    finally:
        model.eval()
    assert perplexity(model, rows, batch=1).nll == pytest.approx(reference.nll, rel=1e-6)
    half = perplexity(lambda r: model(r).logits.bfloat16(), rows)
    assert half.nll == pytest.approx(reference.nll, rel=0.01)


def test_bits_per_byte_counts_the_predicted_text() -> None:
    tokenizer = shipped_tokenizer()
    row = encode(tokenizer, "Größe 12 → 東京, café")
    size = len("Größe 12 → 東京, café".encode())
    tokens = torch.tensor([row])
    found = perplexity(lambda rows: torch.zeros(*rows.shape, 2048), tokens)
    assert found.bits_per_byte == pytest.approx(11 * (len(row) - 1) / size)
    foreign = perplexity(lambda rows: torch.zeros(*rows.shape, 5000), tokens + 2500)
    assert foreign.bits_per_byte != foreign.bits_per_byte


@pytest.mark.parametrize(
    "tokens", [torch.zeros(4), torch.zeros(0, 8), torch.zeros(3, 1)], ids=["flat", "none", "short"]
)
def test_perplexity_refuses_what_predicts_nothing(tokens: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="rows, length"):
        perplexity(lambda rows: torch.zeros(*rows.shape, 4), tokens.long())


def test_perplexity_refuses_logits_of_other_tokens() -> None:
    with pytest.raises(ValueError, match="do not belong"):
        perplexity(lambda rows: torch.zeros(1, 1, 4), torch.zeros(2, 5, dtype=torch.int64))


def test_rows_are_fixed_and_begin_with_a_document() -> None:
    rows = evaluation_tokens()
    assert rows.shape == (96, 256) and rows.dtype == torch.int64
    assert (rows[:, 0] == 0).all() and (rows >= 0).all() and (rows < 2048).all()
    assert torch.equal(rows, evaluation_tokens())
    assert torch.equal(evaluation_tokens(rows=5), rows[:5])
    calibration = calibration_tokens()
    assert calibration.shape == (32, 128)
    assert torch.equal(calibration_tokens(8, 64), calibration[:8, :64])
    assert not torch.equal(calibration_tokens(seed=1), calibration)
    with pytest.raises(ValueError, match="64 documents"):
        packed_rows("train", 1, 100_000)


# -- outlier channels


def test_planting_changes_no_logit(target: Any) -> None:
    model, _ = target
    shipped = {key: value.clone() for key, value in model.state_dict().items()}
    rows = evaluation_tokens()[:4]
    try:
        with torch.no_grad():
            before = model(rows).logits
            for exponent in (-OUTLIER_EXPONENT, 3):
                model.load_state_dict(plant_outliers(shipped, exponent=exponent))
                assert torch.equal(model(rows).logits, before)
    finally:
        model.load_state_dict(shipped)
    there = plant_outliers(plant_outliers(shipped), exponent=-OUTLIER_EXPONENT)
    assert all(torch.equal(there[key], shipped[key]) for key in shipped)
    changed = [k for k, v in plant_outliers(shipped).items() if not torch.equal(v, shipped[k])]
    assert len(changed) == 7 * model.config.num_hidden_layers


def test_the_planted_channels_are_the_outliers(target: Any) -> None:
    peaks = measure.input_peaks(target[0], evaluation_tokens()[:16])
    for name, peak in peaks.items():
        if name.endswith(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")):
            largest = peak.topk(len(outlier_channels())).indices.tolist()
            assert sorted(largest) == list(outlier_channels()), name
            assert peak[list(outlier_channels())].min() > measure.OUTLIER_THRESHOLD, name


def test_outliers_cost_activations_not_weights(target: Any) -> None:
    rows = evaluation_tokens()[:32]

    def nats(scheme: str) -> float:
        with measure.quantized(target[0], scheme):
            return perplexity(target[0], rows).nll

    base = nats("none")
    weights_only = nats("W8, a scale a row") - base
    whole = nats("W8A8, a scale a tensor") - base
    apart = nats("the same, channels of 6 and more apart") - base
    assert abs(weights_only) < 0.003
    assert whole > 0.01 and whole > 5 * abs(weights_only)
    assert abs(apart) < whole / 3
    assert nats("none") == base, "the model was left quantized"


# -- training


def test_training_can_be_repeated() -> None:
    """The first steps of the shipped run: the same tokens exactly, losses to rounding."""
    kept = TRAINING["target"]
    recipe = Recipe(**{**kept["recipe"], "betas": tuple(kept["recipe"]["betas"])})
    assert recipe == RECIPES["target"]
    assert data_hash(recipe, ship_tiny.PREFIX) == kept["first_data_sha256"]
    run = Run("target", recipe)
    losses = [run.step() for _ in range(ship_tiny.PREFIX)]
    # The shipped run was made on a GPU: sums in another order, and nothing else.
    assert losses == pytest.approx(kept["first_losses"], rel=1e-4)
    assert losses[-1] < losses[0] - 0.1


def test_the_runs_went_to_their_end() -> None:
    for name, recipe in RECIPES.items():
        assert TRAINING[name]["steps_done"] == recipe.steps
        assert TRAINING[name]["curve"][-1] < TRAINING[name]["curve"][1]


def test_training_takes_most_of_an_hour_on_two_cores_as_the_card_says() -> None:
    """By the recorded seconds of single steps, for the recipes as they are now."""
    path = ROOT / "content" / "measurements" / "2026-11-25-train-tiny-cpu.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    seconds = {n: fmean(found["models"][n]["samples_s"]) * RECIPES[n].steps for n in RECIPES}
    assert found["cores"] == 2 and 1800 < sum(seconds.values()) < 3600
    assert "most of an hour on two cores" in (FOLDER / "README.md").read_text("utf-8")


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = Recipe(steps=5, batch=2, length=64, warm_up=2)
    straight = train("draft", recipe, tmp_path / "a")
    interrupted = Run("draft", recipe)
    for _ in range(2):
        interrupted.step()
    interrupted.save(tmp_path / "b" / "draft.pt")
    resumed = train("draft", recipe, tmp_path / "b")
    assert resumed.losses == pytest.approx(straight.losses, rel=1e-5)
    assert not Run("draft", Recipe(steps=6, batch=2)).load(tmp_path / "b" / "draft.pt")
    assert not list(tmp_path.rglob("*.part"))
