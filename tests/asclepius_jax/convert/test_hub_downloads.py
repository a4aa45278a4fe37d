"""A hub id serves wherever a Hugging Face folder does: from a small hub of this test, from the cache, or not at all."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from asclepius_jax.config import InitConfig, TrainConfig
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.evaluate.answers.specs import parse_spec
from asclepius_jax.train.loop import train
from asclepius_jax.train.start import resolve_model
from data_prep.contract import hub as hub_module
from data_prep.contract.errors import UserError
from data_prep.contract.hub import SMALL_FILES, WEIGHTS, is_hub_id, local_folder
from data_prep.contract.manifests import read_manifest
from data_prep.contract.tokenizer import JsonTokenizer
from data_prep.pack import run as pack
from tests.helpers.hub_server import Hub, serving
from tests.helpers.made_inputs import MODEL, random_folder
from tests.helpers.training.small_run import lasting, params_of

pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def folder(small_tokenizer: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_folder(folder, MODEL)
    JsonTokenizer(small_tokenizer).save(folder)
    return folder


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch) -> Iterator[Hub]:
    """A hub that offers the folder as lab/model, the only one for this process and those that it starts."""
    with serving() as server:
        server.offered = {path.name: path.read_bytes() for path in folder.iterdir()}
        server.offered["consolidated.safetensors"] = b"the same weights once more"
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setattr(hub_module, "SILENCE_SECONDS", 2.0)
        monkeypatch.chdir(tmp_path)
        yield server


def test_a_hub_id_is_taken_by_every_reader_of_a_folder(
    hub: Hub, folder: Path, base: TrainConfig, small_tokenizer: Path, tmp_path: Path
):
    assert resolve_model("lab/model") == MODEL
    assert not any("safetensors" in request for request in hub.requests if "resolve" in request)
    run_import(ImportConfig(Path("lab/model"), tmp_path / "imported"))
    run_import(ImportConfig(folder, tmp_path / "plain"))
    for name, value in params_of(tmp_path / "imported").items():
        np.testing.assert_array_equal(value, params_of(tmp_path / "plain")[name], err_msg=name)
    config = dataclasses.replace(lasting(base, 1), run_dir=str(tmp_path / "run"), init=InitConfig(hf="lab/model"))
    train(dataclasses.replace(config, data=dataclasses.replace(config.data, eval_path="")))
    assert "snapshots" in parse_spec("mine=hf:lab/model").place
    source = Path(base.data.path[0]).parent / "notes"
    pack.run(pack.PackConfig(source, tmp_path / "packed", Path("lab/model"), 32, workers=1))
    assert read_manifest(tmp_path / "packed", "packed")["tokenizer_hash"] == JsonTokenizer(small_tokenizer).hash
    assert not any("consolidated" in request for request in hub.requests)


def test_what_the_cache_holds_needs_no_hub(hub: Hub, monkeypatch):
    found = local_folder("lab/model", WEIGHTS)
    hub.hangs_at = "/"
    assert local_folder("lab/model", WEIGHTS) == found  # after the silence
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert local_folder("lab/model", WEIGHTS) == found
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert local_folder("lab/model", WEIGHTS) == found


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "hangs_at", ["/api/", pytest.param("/tree/", marks=SLOW), pytest.param("model.safetensors", marks=SLOW)]
)
def test_a_hub_that_hangs_is_given_up(hub: Hub, hangs_at: str):
    """At whichever answer, and although its library would wait for minutes."""
    hub.hangs_at = hangs_at
    with pytest.raises(
        UserError, match=r"no such folder, the hub sent nothing for \d+ s, and the cache is incomplete: check"
    ):
        local_folder("lab/model", WEIGHTS)
    if hangs_at == "model.safetensors":  # small files arrived
        assert (local_folder("lab/model", SMALL_FILES) / "config.json").is_file()


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        ((403, "GatedRepo"), "lab/model is gated: accept its terms on its hub page, then run `hf auth login`"),
        ((404, "RepoNotFound"), "lab/model: no such folder, and no such repository on the hub for this user"),
        ((500, ""), "lab/model: no such folder, the hub cannot be reached, and the cache is incomplete"),
    ],
)
def test_a_refusal_is_one_line_with_its_remedy(hub: Hub, refusal: tuple[int, str], told: str):
    hub.refusal = refusal
    with pytest.raises(UserError) as raised:
        local_folder("lab/model", WEIGHTS)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_path_is_no_hub_id(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert is_hub_id("meta-llama/Llama-2-7b-hf")
    for name in ("models/missing", "a/b/c", "./model", "/model", "model", "gs://b/c", "."):
        assert not is_hub_id(name), name
        assert local_folder(name, WEIGHTS) == Path(name)
