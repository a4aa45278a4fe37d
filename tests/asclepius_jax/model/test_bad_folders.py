"""A bad folder or checkpoint ends in one clear line and exit code 2, and leaves nothing half-written."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asclepius_jax import cli
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.model.huggingface.safetensors import open_folder
from data_prep.contract.tokenizer import JsonTokenizer
from tests.helpers.made_inputs import MODEL, random_folder

Ask = Callable[..., str]
NORM = "model.norm.weight"


@pytest.fixture
def refused(monkeypatch, capsys) -> Ask:
    """The one line that `asclepius ARGUMENTS` ends in."""

    def ask(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["asclepius", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        told = capsys.readouterr().err
        assert left.value.code == 2, told
        assert told.count("\n") == 1, told
        assert told.startswith("asclepius "), told
        return told

    return ask


@pytest.fixture(scope="module")
def hf_folder(small_tokenizer: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "folder"
    random_folder(folder, MODEL)
    JsonTokenizer(small_tokenizer).save(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(hf_folder: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("checkpoint") / "run"
    run_import(ImportConfig(hf_folder, out))
    return out


def overwrite(folder: Path, name: str, value: np.ndarray) -> None:
    """The first numbers of a tensor, where it lies in its file."""
    start = open_folder(folder).places[name].start
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(start)
        file.write(value.tobytes())


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def infinite(folder: Path) -> None:
    overwrite(folder, NORM, np.array([np.inf, np.nan], np.float32))


def overlapping(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["model.norm.weight"]["data_offsets"] = [0, 128]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def misindexed(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def scaled(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "rope_scaling": {"type": "dynamic", "factor": 2.0}}))


def many_layers(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "num_hidden_layers": 10**9}))


def no_end(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": "2"}')


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(b"\xff" * 9)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (many_layers, "num_hidden_layers is 1000000000, which is more than the largest that is read, 4096"),
        (no_end, "generation_config.json: eos_token_id is '2', which is not an id or a list of ids"),
        (no_tokenizer, "tokenizer.json is not a tokenizer: 'utf-8' codec can't decode byte 0xff"),
        (cut, "model.safetensors is truncated: 100 bytes are missing; download it again"),
        (
            pickled,
            "pytorch_model.bin is a pickle, which can run code: if you trust it, convert it with transformers'",
        ),
        (infinite, "contains infinite or NaN values in 1 tensors: model.norm.weight (2)"),
        (overlapping, "overlaps the tensor before it"),
        (misindexed, "which the index does not list there"),
        (scaled, "rotary scaling 'dynamic' is not one of default, linear, llama3, yarn"),
    ],
)
def test_a_bad_folder_is_refused_and_nothing_is_written(
    refused: Ask, hf_folder: Path, tmp_path: Path, spoil: Callable[[Path], None], told: str
):
    shutil.copytree(hf_folder, tmp_path / "hf")
    spoil(tmp_path / "hf")
    assert told in refused("import", "--hf", tmp_path / "hf", "--out", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_an_export_that_is_verified_ends_in_one_line(refused: Ask, checkpoint: Path, tmp_path: Path):
    run_export(ExportConfig(checkpoint, tmp_path / "out", "float32"))
    overwrite(tmp_path / "out", NORM, np.float32(7.0))
    flags = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--dtype", "float32", "--verify")
    told = refused("export", *flags)
    assert "the content of model.norm.weight differs. Renamed to" in told
    assert [path.name for path in tmp_path.iterdir()] == ["out-FAILED"]


def test_an_export_never_replaces_something_else(refused: Ask, checkpoint: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    told = refused("export", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert "out exists and does not contain finished exported weights: choose another --out" in told


def test_a_process_that_cannot_be_is_refused(refused: Ask, checkpoint: Path, tmp_path: Path):
    flags = ("--process-id", 2, "--processes", 2)
    told = refused("export", "--checkpoint", checkpoint, "--out", tmp_path / "out", *flags)
    assert "--process-id 2: it must be from 0 to 1" in told
