"""What is pushed arrives at a hub, private, verified and no more than once. The hub is a small server of this test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asclepius_jax import cli
from asclepius_jax.convert import verify
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from data_prep.contract.tokenizer import JsonTokenizer
from tests.helpers.hub_server import Hub, serving
from tests.helpers.made_inputs import MODEL, random_folder

constants = pytest.importorskip("huggingface_hub.constants")
Push = Callable[..., tuple[int, str]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def run_dir(small_tokenizer: Path, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    random_folder(root / "hf", MODEL)
    JsonTokenizer(small_tokenizer).save(root / "hf")
    run_import(ImportConfig(root / "hf", root / "run"))
    return root / "run"


@pytest.fixture
def push(hub: Hub, run_dir: Path, tmp_path: Path, monkeypatch, capsys) -> Push:
    """Exit code and output of `asclepius export --push lab/model`, for which this is the only hub."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(verify, "available_memory", lambda: 0)  # logits are compared elsewhere

    def call(*flags: str, token: str = "hf_secret") -> tuple[int, str]:
        monkeypatch.setenv("HF_TOKEN", token)
        arguments = ["--checkpoint", run_dir, "--out", tmp_path / "out", "--push", "lab/model", *flags]
        monkeypatch.setattr(sys, "argv", ["asclepius", "export", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as left:
            code = int(str(left.code))
        told = capsys.readouterr()
        return code, told.out + told.err

    return call


def test_a_push_brings_the_folder_and_nothing_else(hub: Hub, push: Push, run_dir: Path, tmp_path: Path):
    run_export(ExportConfig(run_dir, tmp_path / "out"))
    (tmp_path / "out/ledger.sqlite").write_text("what nobody else should see")
    code, told = push()
    assert code == 0, told
    assert told.index("verified") < told.index("pushed")
    assert hub.created[0]["name"] == "model"
    assert hub.created[0]["visibility"] == "private"
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != "ledger.sqlite"}
    assert hub.files == written
    assert hub.uploads > 0


def test_a_push_that_was_interrupted_sends_what_is_missing(hub: Hub, push: Push, run_dir: Path, tmp_path: Path):
    hub.fails_after = 1
    flags = ("--max-shard-size", "40e-6")
    code, told = push(*flags)
    assert code == 2, told
    assert "files that are already there are not sent again" in told.splitlines()[-1]
    assert not hub.files
    before, hub.fails_after, hub.uploads = dict(hub.objects), 10**9, 0
    assert len(before) == 1
    code, told = push(*flags)
    assert code == 0, told
    assert "exported" not in told  # the folder of the first time, verified again
    assert hub.uploads == len(hub.objects) - len(before)
    assert {name for name in hub.files if name.endswith(".safetensors")} == {
        path.name for path in (tmp_path / "out").glob("*.safetensors")
    }


def test_a_public_repository_needs_consent(hub: Hub, push: Push, run_dir: Path, tmp_path: Path):
    hub.private = False
    code, told = push()
    assert code == 2
    assert "--push lab/model is a public repository: choose another one, or pass --public" in told
    assert not hub.files
    code, told = push("--public")
    assert code == 0, told
    assert hub.created[-1]["visibility"] == "public"


def test_a_wrong_token_is_one_line(hub: Hub, push: Push, run_dir: Path, tmp_path: Path):
    code, told = push(token="hf_wrong")
    assert code == 2
    assert "Traceback" not in told
    assert "--push lab/model failed (" in told.splitlines()[-1]
    assert "hf_wrong" not in told


def test_a_folder_that_fails_is_not_pushed(hub: Hub, push: Push, run_dir: Path, tmp_path: Path):
    run_export(ExportConfig(run_dir, tmp_path / "out"))
    with (tmp_path / "out/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x3f")
    code, told = push()
    assert code == 2
    assert "Renamed to" in told
    assert not hub.requests
