"""What a user can get wrong ends in one clear line and exit code 2, and leaves nothing half-written."""

import dataclasses
import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asclepius_jax import cli
from tests.helpers.command_line import Ask, one_line
from tests.helpers.made_inputs import MODEL, make_tokenizer, note, packed_notes, write_records

LENGTH = 32
MODEL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from asclepius_jax.model.huggingface.names import write_config

    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(write_config(MODEL, "float32", MODEL_IDS))
    return folder


@pytest.fixture(scope="module")
def data(small_tokenizer: Path, tmp_path_factory) -> Path:
    return packed_notes(tmp_path_factory.mktemp("data"), small_tokenizer, 40, LENGTH)


@pytest.fixture(scope="module")
def hf_folder(model: Path, small_tokenizer: Path, tmp_path_factory) -> Path:
    """A model of zeros: what is refused is refused before anything is computed."""
    from safetensors.numpy import save_file

    from asclepius_jax.model.decoder import build
    from asclepius_jax.model.huggingface.names import hf_shapes
    from data_prep.contract.tokenizer import JsonTokenizer

    folder = tmp_path_factory.mktemp("hf") / "folder"
    JsonTokenizer(small_tokenizer).save(folder)
    shutil.copy(model / "config.json", folder)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in hf_shapes(build(MODEL)).items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def checkpoint(hf_folder: Path, tmp_path_factory) -> Path:
    from asclepius_jax.convert.import_hf import ImportConfig, run_import

    out = tmp_path_factory.mktemp("checkpoint") / "run"
    run_import(ImportConfig(hf_folder, out))
    return out


@pytest.fixture
def training(model: Path, data: Path, tmp_path: Path, refused: Ask) -> Ask:
    """The line that a training run with these flags ends in; none leaves a file that a reader takes for a run."""
    file = tmp_path / "values.py"
    file.write_text(
        "from asclepius_jax.config import *\n\n"
        f"config = TrainConfig({str(tmp_path / 'run')!r}, {str(model)!r}, data=DataConfig({str(data)!r}, "
        f"row_length={LENGTH}), batch=BatchConfig(8), compute=ComputeConfig('float32', 'none'), "
        "few_steps=True)\n"
    )

    def ask(*flags: object) -> str:
        told = refused("train", file, *flags)
        assert not list((tmp_path / "run").glob("**/*.json*"))
        return told

    return ask


# ---------------------------------------------------------------- the command line itself


def test_help_names_every_subcommand(monkeypatch, capsys):
    for arguments in ([], ["--help"], ["-h"]):
        monkeypatch.setattr(sys, "argv", ["asclepius", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 0
        told = capsys.readouterr().out
        assert all(f"  {name} " in told for name in cli.COMMANDS)


def test_the_command_line_alone_imports_nothing_heavy():
    heavy = "{'jax', 'flax', 'tensorflow', 'pyarrow', 'torch', 'transformers', 'tokenizers', 'grain', 'openai'}"
    code = f"import sys, asclepius_jax.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("typed", "meant"), [("trian", "train"), ("instruction", "instructions"), ("Export", "export")]
)
def test_a_misspelt_subcommand_is_suggested(refused: Ask, typed: str, meant: str):
    assert one_line(refused(typed)) == f"asclepius {typed}: no such subcommand; did you mean {meant}?\n"


def test_an_unknown_subcommand_lists_those_there_are(refused: Ask):
    told = one_line(refused("zzz"))
    assert told.endswith(f"one of {', '.join(cli.COMMANDS)}\n")


def test_a_misspelt_flag_is_suggested(training: Ask):
    assert "--optimizer.learning-rate" in training("--optimizer.learning-rat", "1e-4")


def test_a_value_of_the_wrong_type_is_refused(training: Ask):
    told = training("--batch.global-batch", "many")
    assert "many" in told
    assert "--batch.global-batch" in told


def test_a_missing_config_is_answered_with_the_nearest(refused: Ask, tmp_path: Path):
    (tmp_path / "instruct_7b.py").write_text("")
    told = one_line(refused("train", tmp_path / "instruct_7.py"))
    assert "no such config file; did you mean" in told
    assert "instruct_7b.py?" in told


def test_a_config_without_a_config_is_refused(refused: Ask, tmp_path: Path):
    (tmp_path / "values.py").write_text("x = 1\n")
    assert "does not set `config = TrainConfig(...)`" in one_line(refused("train", tmp_path / "values.py"))


def test_a_config_that_does_not_run_is_refused(refused: Ask, tmp_path: Path):
    (tmp_path / "broken.py").write_text("config = TrainConfig(")
    assert "broken.py failed: SyntaxError" in refused("train", tmp_path / "broken.py")


def test_a_broken_tokenizer_is_refused(refused: Ask, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{")
    source = write_records(tmp_path / "notes", [note("n", "well")])
    told = refused("pack", "--source", source, "--out", tmp_path / "out", "--tokenizer", tmp_path)
    assert "tokenizer.json is not a tokenizer" in told


def test_a_training_without_a_config_is_refused(refused: Ask):
    assert "name a config first" in one_line(refused("train", "--batch.global-batch", "8"))


def test_debug_shows_where_it_happened(monkeypatch, tmp_path: Path):
    from data_prep.contract.errors import UserError

    monkeypatch.setattr(sys, "argv", ["asclepius", "train", str(tmp_path / "absent.py"), "--debug"])
    with pytest.raises(UserError, match="no such config file"):
        cli.main()


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli.command_line, "dispatch", broken)
    monkeypatch.setattr(sys, "argv", ["asclepius", "pack"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_a_package_that_is_not_installed_is_named_with_its_extra(refused: Ask, monkeypatch):
    monkeypatch.setitem(sys.modules, "data_prep.pack.run", None)
    monkeypatch.setitem(cli.COMMANDS, "pack", dataclasses.replace(cli.COMMANDS["pack"], module="absent_package"))
    assert "absent_package is not installed: pip install 'asclepius-jax[prep]'" in one_line(refused("pack"))


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--model", "llama2_7"], "'llama2_7' is neither a folder with config.json, nor a hub id, nor one of llama_7b"),
        (["--data.path", ""], "data.path is empty: set --data.path to a folder written by `asclepius pack`"),
        (["--data.path", "absent"], "absent: no such folder"),
        (["--data.row-length", "64"], "rows of 32 tokens, data.row_length is 64: pack again with --row-length 64"),
        (["--data.row-length", "512"], "data.row_length 512 exceeds the model's maximum of 256 tokens"),
        (["--mesh.data", "3"], "mesh 3 x -1 x 1 x 1 (data x fsdp x tensor x context) does not match 8 devices"),
        (["--mesh.data", "3"], "choose other axes that divide 8 ([1, 2, 4, 8])"),
        (["--mesh.tensor", "8"], "mesh.tensor 8 does not divide the attention heads of 4: use one of [1, 2, 4]"),
        (["--mesh.tensor", "4"], "mesh.tensor 4 does not divide the key/value heads of 2: use one of [1, 2]"),
        (["--mesh.tensor", "0"], "mesh 1 x -1 x 0 x 1: every axis must be 1 or more"),
        (
            ["--batch.global-batch", "12"],
            "batch.global_batch 12 does not spread over mesh.data x mesh.fsdp = 8 devices",
        ),
        (["--batch.global-batch", "12"], "make it a multiple of 8, or split rows"),
        (["--batch.microbatches", "2"], "mesh.data x mesh.fsdp = 8 devices: use one of [1]"),
        (["--batch.microbatches", "3"], "does not divide batch.global_batch 8: use one of [1, 2, 4, 8]"),
        (["--batch.global-batch", "0"], "batch.global_batch is 0: it must be above 0"),
        (["--init.hf", "a", "--init.checkpoint", "b"], "init.hf and init.checkpoint are both set: choose one"),
        (["--init.checkpoint", "absent"], "absent contains no checkpoint"),
        (["--init.hf", "absent"], "absent has no config.json"),
    ],
)
def test_a_training_that_cannot_be_says_what_could(training: Ask, flags: list[str], told: str):
    assert told in one_line(training(*flags))


def test_a_folder_packed_with_another_tokenizer_is_refused(training: Ask, tmp_path: Path, data: Path, checkpoint: Path):
    other = packed_notes(tmp_path, make_tokenizer(tmp_path / "tokenizer", 300), 30, LENGTH)
    told = one_line(training("--data.eval-path", other))
    assert f"{other} has a tokenizer with hash" in told
    assert f"{data} was packed with" in told
    told = one_line(training("--data.path", other, "--init.checkpoint", checkpoint))
    assert f"{checkpoint}/checkpoints/0 has a tokenizer with hash" in told


def test_a_vocabulary_beyond_the_models_is_refused(training: Ask):
    told = one_line(training("--model", "tiny"))
    assert "token ids up to 319, but the model's vocabulary size is 256: pack with the model's own tokenizer" in told


def test_a_checkpoint_of_another_shape_is_refused(training: Ask, checkpoint: Path, tmp_path: Path):
    from asclepius_jax.model.huggingface.names import write_config

    deeper = dataclasses.replace(MODEL, num_layers=3)
    (tmp_path / "config.json").write_text(write_config(deeper, "float32", MODEL_IDS))
    told = one_line(training("--model", tmp_path, "--init.checkpoint", checkpoint))
    assert "contains another model: num_layers 2 there, 3 here" in told


def test_a_folder_of_another_shape_is_refused(training: Ask, hf_folder: Path, tmp_path: Path):
    from asclepius_jax.model.huggingface.names import write_config

    (tmp_path / "config.json").write_text(write_config(dataclasses.replace(MODEL, norm_eps=1e-6), "float32", MODEL_IDS))
    assert "norm_eps 1e-05 there, 1e-06 here" in one_line(training("--model", tmp_path, "--init.hf", hf_folder))


def test_an_unfinished_packed_folder_is_refused(training: Ask, data: Path, tmp_path: Path):
    shutil.copytree(data, tmp_path / "copy")
    (tmp_path / "copy/manifest.json").unlink()
    assert "has no manifest.json: it is not finished" in one_line(training("--data.path", tmp_path / "copy"))


# ---------------------------------------------------------------- import, export, generate


def test_missing_tensors_are_listed(refused: Ask, hf_folder: Path, tmp_path: Path):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(hf_folder, tmp_path / "hf")
    tensors = load_file(hf_folder / "model.safetensors")
    gone = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    save_file({n: x for n, x in tensors.items() if n not in gone}, tmp_path / "hf/model.safetensors")
    told = one_line(refused("import", "--hf", tmp_path / "hf", "--out", tmp_path / "run"))
    assert f"2 missing: {', '.join(gone)}" in told
    assert not (tmp_path / "run").exists()


def test_importing_what_is_no_folder_is_refused(refused: Ask, tmp_path: Path):
    told = one_line(refused("import", "--hf", tmp_path / "absent", "--out", tmp_path / "run"))
    assert "absent has no config.json" in told


def test_an_import_onto_a_run_is_refused(refused: Ask, hf_folder: Path, checkpoint: Path):
    assert "already contains checkpoints" in one_line(refused("import", "--hf", hf_folder, "--out", checkpoint))


def test_exporting_what_is_no_run_is_refused(refused: Ask, tmp_path: Path):
    told = one_line(refused("export", "--checkpoint", tmp_path, "--out", tmp_path / "hf"))
    assert "contains no checkpoint: name a run folder, or RUN/checkpoints/STEP" in told


def test_an_unfinished_checkpoint_is_refused(refused: Ask, tmp_path: Path):
    (tmp_path / "checkpoints/5").mkdir(parents=True)
    told = one_line(refused("export", "--checkpoint", tmp_path, "--out", tmp_path / "hf"))
    assert "checkpoints/5 is damaged (digests.json is missing)" in told


def test_a_checkpoint_with_a_lost_file_is_refused(refused: Ask, checkpoint: Path, tmp_path: Path):
    shutil.copytree(checkpoint, tmp_path / "run")
    data = [path for path in (tmp_path / "run/checkpoints/0/params").rglob("d/*") if path.is_file()]
    assert data
    for path in data:
        path.unlink()
    told = one_line(refused("generate", "--checkpoint", tmp_path / "run", "--prompt", "fever"))
    assert "checkpoints/0 is damaged (params/" in told
    assert "is missing" in told


def test_asking_nothing_is_refused(refused: Ask, checkpoint: Path):
    told = one_line(refused("generate", "--checkpoint", checkpoint))
    assert "set --prompt TEXT, or --note FILE with --instruction TEXT" in told


# ---------------------------------------------------------------- pack


def test_packing_what_is_missing_is_refused(refused: Ask, small_tokenizer: Path, tmp_path: Path):
    ask = ["pack", "--out", tmp_path / "out", "--tokenizer", small_tokenizer, "--source"]
    assert "absent: no such folder; name one that contains notes or instructions" in one_line(
        refused(*ask, tmp_path / "absent")
    )
    (tmp_path / "source").mkdir()
    assert "it is not finished" in one_line(refused(*ask, tmp_path / "source"))
    (tmp_path / "source/manifest.json").write_text("{}")
    assert "was not written by asclepius" in one_line(refused(*ask, tmp_path / "source"))
    assert not (tmp_path / "out").exists()


def test_packing_with_what_is_no_tokenizer_is_refused(refused: Ask, tmp_path: Path):
    source = write_records(tmp_path / "source", [note("n", "fever")])
    told = refused("pack", "--source", source, "--out", tmp_path / "out", "--tokenizer", tmp_path / "absent")
    assert "is not a tokenizer: pass a SentencePiece .model file" in one_line(told)


# ---------------------------------------------------------------- a full disk


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "rows")


def test_a_full_disk_while_packing_leaves_nothing(refused: Ask, small_tokenizer: Path, tmp_path: Path, monkeypatch):
    from data_prep.pack.documents import DocumentStore

    source = write_records(tmp_path / "source", [note("n", "fever")])
    monkeypatch.setattr(DocumentStore, "row", full)
    told = refused("pack", "--source", source, "--out", tmp_path / "out", "--tokenizer", small_tokenizer)
    assert "the disk is full" in one_line(told)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_full_disk_while_exporting_keeps_the_old_folder(refused: Ask, checkpoint: Path, tmp_path: Path, monkeypatch):
    from asclepius_jax.convert import export_hf

    export_hf.run_export(export_hf.ExportConfig(checkpoint, tmp_path / "out"))
    before = json.loads((tmp_path / "out/manifest.json").read_text())
    monkeypatch.setattr(export_hf, "write_config", full)
    told = refused("export", "--checkpoint", checkpoint, "--out", tmp_path / "out", "--dtype", "float32")
    assert "the disk is full" in one_line(told)
    assert json.loads((tmp_path / "out/manifest.json").read_text()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_too_few_updates_are_told_with_what_would_do(training: Ask):
    told = one_line(training("--no-few-steps"))
    assert re.search(r"35 rows x 1 epochs .* give 4 updates, .*use --data.epochs 3, more rows or --few-steps if", told)


def test_a_full_disk_while_training_is_told(training: Ask, monkeypatch):
    from asclepius_jax.train import loop

    monkeypatch.setattr(loop, "write_run_folder", full)
    assert "the disk is full: make room and run this again" in one_line(training())


# ---------------------------------------------------------------- sizes, names and files that are none


HUGE = (
    ("--batch.global-batch", 10**9),
    ("--data.row-length", 10**9),
    ("--data.epochs", 1e300),
    ("--data.seed", -1),
    ("--data.seed", 10**20),
    ("--lora.rank", 10**9),
)


@pytest.mark.parametrize(("flag", "value"), HUGE)
def test_a_size_that_no_run_has_is_refused_at_once(training: Ask, flag: str, value: float):
    assert f"{flag.removeprefix('--').replace('-', '_')} is {value}: it must be from 0 to" in training(flag, value)


@pytest.mark.parametrize(
    ("entry", "told"), [({"rows": 7}, "manifest says 7"), ({"token_dtype": "uint32"}, "as uint32")]
)
def test_packed_rows_that_are_not_what_their_manifest_says(training: Ask, data: Path, tmp_path: Path, entry, told: str):
    shutil.copytree(data, tmp_path / "edited")
    manifest = json.loads((data / "manifest.json").read_text())
    (tmp_path / "edited/manifest.json").write_text(json.dumps({**manifest, **entry}))
    assert told in training("--data.path", tmp_path / "edited", "--init.random")


def test_a_run_folder_whose_name_no_file_can_have(training: Ask):
    assert "File name too long" in training("--run-dir", "x" * 300, "--init.random")
