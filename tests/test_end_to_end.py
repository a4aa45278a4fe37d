"""From case reports to a Hugging Face folder that answers, by the commands that a user types."""

import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from asclepius_jax import cli
from asclepius_jax.pipelines.demo import DemoConfig
from asclepius_jax.pipelines.demo import run as run_demo
from data_prep.contract.records import PackedRow
from data_prep.contract.tokenizer import train_sentencepiece
from tests.helpers.places import ROOT

REPORTS = ROOT / "data_prep" / "ingest" / "demo_reports.jsonl"


def asclepius(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["asclepius", *map(str, arguments)])
    cli.main()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the commands make of six reports, with a few steps of training."""
    out = tmp_path_factory.mktemp("made")
    (out / "six.jsonl").write_text("\n".join(REPORTS.read_text().splitlines()[:6]))
    train_sentencepiece([REPORTS.read_text()], out / "tokenizer.model", vocab_size=600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: jax.local_devices()[:4])
        asclepius(patch, "notes", "--source", out / "six.jsonl", "--out", out / "notes", "--teacher", "offline")
        asclepius(patch, "instructions", "--source", out / "notes", "--out", out / "instructions", "--per-note", 2)
        for name in ("notes", "instructions"):
            asclepius(
                patch, "pack", "--source", out / name, "--out", out / f"packed_{name}",
                "--tokenizer", out / "tokenizer.model", "--row-length", 1536,
            )  # fmt: skip
        common = (
            ROOT / "configs/demo.py", "--data.row-length", 1536, "--batch.global-batch", 2, "--data.epochs", 1,
            "--few-steps",
        )  # fmt: skip
        asclepius(patch, "train", *common, "--data.path", out / "packed_notes", "--run-dir", out / "pretrain")
        asclepius(
            patch, "train", *common, "--data.path", out / "packed_instructions", "--run-dir", out / "instruct",
            "--init.checkpoint", out / "pretrain", "--data.eval-path", out / "packed_instructions",
        )  # fmt: skip
        asclepius(patch, "export", "--checkpoint", out / "instruct", "--out", out / "hf", "--dtype", "float32")
        asclepius(patch, "import", "--hf", out / "hf", "--out", out / "imported")
    return out


def test_every_stage_closes_its_folder(made: Path):
    counts = {
        name: json.loads((made / name / "manifest.json").read_text())
        for name in ("notes", "instructions", "packed_notes", "packed_instructions", "hf")
    }
    # Some notes have nothing sure to ask for a task.
    asked = counts["instructions"]
    assert [counts["notes"]["out"], asked["out"] + sum(asked["rejected"].values())] == [6, 12]
    assert counts["packed_instructions"]["documents"] == asked["out"] >= 8
    assert counts["packed_instructions"]["truncated"] == 0
    assert counts["packed_instructions"]["packing_efficiency"] > 0.5
    for manifest in counts.values():
        assert {"in", "out", "rejected", "inputs"} <= manifest.keys()


def test_the_run_folder_tells_its_story(made: Path):
    rows = [json.loads(line) for line in (made / "instruct" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, rows[-1]["step"] + 1))
    assert rows[-1]["eval_loss"] > 0
    assert "<svg" in (made / "instruct" / "report.html").read_text()


def test_transformers_sees_the_prompt_that_was_trained_on(made: Path):
    """The packed prompt, and what apply_chat_template makes of the same note and question, id for id."""
    transformers = pytest.importorskip("transformers")
    import grain
    from datasets import load_dataset

    manifest = json.loads((made / "packed_instructions" / "manifest.json").read_text())
    source = grain.sources.ArrayRecordDataSource([str(made / "packed_instructions" / manifest["files"][0]["name"])])
    prompts = set()
    for record in source:
        row = PackedRow.from_bytes(record, manifest["token_dtype"])
        start = 0
        for length in row.segment_lengths:
            segment = slice(start, start + length)
            prompts.add(tuple(row.tokens[segment][~row.loss_mask[segment]].tolist()))
            start += length
    tokenizer = transformers.AutoTokenizer.from_pretrained(made / "hf")
    # A cache of its own: the usual one remembers a folder of the same name from an earlier session.
    examples = load_dataset(str(made / "instructions"), split="train", cache_dir=str(made / "cache"))
    assert len(examples) == json.loads((made / "instructions" / "manifest.json").read_text())["out"] >= 8
    for example in examples:
        messages = [{"role": "system", "content": example["note"]}, {"role": "user", "content": example["question"]}]
        ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        assert tuple(ids) in prompts


def test_what_was_exported_and_imported_is_what_was_trained(made: Path):
    from asclepius_jax.checkpoint.read import find_step, read_stored

    trained, imported = find_step(made / "instruct")[1], find_step(made / "imported")[1]
    for name in ("embed_VD", "blocks.attention.q_DNH", "blocks.mlp.down_DF", "norm.scale"):
        np.testing.assert_array_equal(read_stored(trained, name), read_stored(imported, name))


def test_a_checkpoint_answers(made: Path, monkeypatch, capsys):
    (made / "note.txt").write_text("Discharge summary. Metformin was stopped.")
    asclepius(
        monkeypatch, "generate", "--checkpoint", made / "instruct", "--note", made / "note.txt",
        "--instruction", "Which drug was stopped?", "--sampling.max-new-tokens", 8,
    )  # fmt: skip
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_the_demo_reaches_its_figures(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:4])
    run_demo(DemoConfig(out=tmp_path / "demo"))
    printed = capsys.readouterr().out
    assert float(re.search(r"([\d.]+)% of the initial loss is gone", printed)[1]) >= 80
    assert float(re.search(r"max \|Δ\| ([\d.e+-]+)", printed)[1]) <= 1e-3
    assert float(re.search(r"greedy answers: ([\d.]+)", printed)[1]) >= 0.6


def test_the_evaluation_of_the_demo_goes_from_its_folders_to_a_report(made: Path, monkeypatch, tmp_path: Path):
    pytest.importorskip("torch")
    asclepius(monkeypatch, "evaluate", "demo", "--demo", made, "--out", tmp_path / "evaluation", "--per-task", 2)
    figures = json.loads((tmp_path / "evaluation/report/report.json").read_text())
    means = {model: told["mean"]["value"] for model, told in figures["scores"]["rules"].items()}
    assert means["teacher by rule"] > 3.5
    assert means["teacher by rule"] > means["demo model"] >= means["random weights"]
    assert means["random weights"] < 1.5
    assert figures["calibration"]["rules"]["specificity"]["value"] > 0.8
    page = (tmp_path / "evaluation/report/report.html").read_text()
    assert page.count("<svg") >= 5
    assert "Realism of notes" in page
    with pytest.raises(SystemExit) as ended:
        asclepius(monkeypatch, "evaluate", "demo", "--demo", tmp_path, "--out", tmp_path / "x")
    assert ended.value.code == 2
