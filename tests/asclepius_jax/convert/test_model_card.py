"""The model card says what the run recorded, under the licence that its data have, and nothing of this machine."""

import dataclasses
from typing import Any

import pytest

from asclepius_jax.checkpoint.read import Meta
from asclepius_jax.config import DataConfig, InitConfig, OptimizerConfig, TrainConfig
from asclepius_jax.config.schema import with_learning_rate
from asclepius_jax.convert.model_card import model_card
from asclepius_jax.model.sizes import VARIANTS

yaml = pytest.importorskip("yaml")

CACHED = "/home/jane/.cache/huggingface/hub/models--meta-llama--Llama-2-7b-hf/snapshots/abc"


def card(licences: dict[str, int], start: str = "", **changes: Any) -> str:
    config = TrainConfig(
        run_dir="/home/jane/runs/one",
        init=InitConfig(hf=start),
        data=DataConfig("/home/jane/packed", epochs=3.0),
        optimizer=OptimizerConfig(learning_rate=3e-5),
    )
    data = {"rows": 40_000, "tokens": 80_000_000, "sources": {"PMC-Patients": 158}, "licences": licences}
    meta = Meta(
        VARIANTS["llama2_7b"], "hash", "{note}\n{instruction}\n", 2048, "instruct", dataclasses.asdict(config), data,
        eval_loss=1.0,
    )  # fmt: skip
    return model_card(dataclasses.replace(meta, **changes), 930, "bfloat16")


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf")])
def test_weights_that_were_not_evaluated_claim_no_loss(loss: float | None):
    text = card({"CC0": 1}, eval_loss=loss)
    assert "No loss on held-out rows is recorded with these weights." in text
    assert "Perplexity" not in text


@pytest.mark.parametrize("start", ["/home/jane/runs/notes", "/home/jane/runs/notes/checkpoints/930"])
def test_a_run_is_named_by_its_folder(start: str):
    config = with_learning_rate(TrainConfig(init=InitConfig(checkpoint=start)))
    assert "| Started from | notes |" in card({"CC0": 1}, config=dataclasses.asdict(config))


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        ({"CC BY-NC-SA 4.0": 158}, "cc-by-nc-sa-4.0"),
        ({"CC0": 100, "cc0 1.0": 58}, "cc0-1.0"),
        ({"CC BY-NC-SA 4.0": 100, "CC0": 58}, "other"),
        ({"a hospital's own": 158}, "other"),
        ({"CC0": 100, "unknown": 58}, "other"),
    ],
)
def test_the_licence_is_that_of_all_the_data(licences: dict[str, int], expected: str):
    text = card(licences)
    assert front(text)["license"] == expected
    assert all(f"{name} ({count})" in text for name, count in licences.items())


def test_it_says_what_was_done():
    text = card({"CC0": 158}, CACHED)
    assert front(text)["base_model"] == "meta-llama/Llama-2-7b-hf"
    assert front(text)["language"] == "en"
    for told in (
        "PMC-Patients (158)", "AdamW", "| Learning rate | 3e-05,", "| Epochs | 3 |", "| Global batch | 128 rows |",
        "| Row length | 2,048 tokens |", "| Steps | 930 |", "| Weights here | bfloat16 |", "| Perplexity | 2.718 |",
        "1.0000 nats", "6,738,415,616 parameters", "{note}\n{instruction}", "**Not for clinical use**",
    ):  # fmt: skip
        assert told in text, told


def test_a_start_that_is_no_model_of_the_hub_is_named_without_its_path():
    text = card({"CC0": 1}, "/home/jane/models/our-llama/")
    assert "base_model" not in front(text)
    assert "| Started from | our-llama |" in text
    for start in ("", CACHED, "/home/jane/models/our-llama/"):
        assert "jane" not in card({"CC0": 1}, start)


def test_weights_that_were_only_imported_claim_no_training():
    text = card({}, phase="import", config={}, data={}, eval_loss=None)
    assert "license" not in front(text)
    assert "trained nothing" in text
    assert "No loss on held-out rows is recorded" in text
    assert "AdamW" not in text
    assert "**Not for clinical use**" in text
