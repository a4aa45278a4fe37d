"""A folder comes in bit for bit, in its own types and without a device, or not at all."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from asclepius_jax.checkpoint.checksums import checksum, written
from asclepius_jax.checkpoint.read import find_step, read_meta, read_stored, restore_params
from asclepius_jax.config import MeshConfig
from asclepius_jax.convert import import_hf
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import names
from asclepius_jax.model.huggingface.safetensors import FolderError
from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer import JsonTokenizer
from tests.helpers.huggingface.made_families import made_family
from tests.helpers.made_inputs import MODEL, make_tokenizer, random_folder, to_hf

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def folder_with(folder: Path, tokenizer: Path, change: Callable | None = None, dtype: type = np.float32) -> dict:
    """A random model with its tokenizer; `change` is done to its tensors."""
    from safetensors.numpy import save_file

    tensors = random_folder(folder, MODEL, dtype)
    JsonTokenizer(tokenizer).save(folder)
    if change is not None:
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
    return tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tensor_keeps_its_type_and_bits(small_tokenizer: Path, tmp_path: Path, dtype: type):
    tensors = folder_with(tmp_path / "hf", small_tokenizer, dtype=dtype)
    run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    step = find_step(tmp_path / "run")[1]
    meta, model = read_meta(step), build(MODEL)
    assert (meta.phase, meta.model) == ("import", MODEL)
    for row in names.names(model):
        stored = read_stored(step, row[0])
        assert stored.dtype == dtype
        assert meta.checksums[f"params/{row[0]}"] == written(checksum(stored))
        for name, value in to_hf(row, stored):
            np.testing.assert_array_equal(value, tensors[name], err_msg=name)
    assert len(meta.checksums) == len(names.flatten(model.shapes))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_came_in_is_restored_and_verified_on_a_mesh_in_float32(small_tokenizer: Path, tmp_path: Path, dtype: type):
    tensors = folder_with(tmp_path / "hf", small_tokenizer, dtype=dtype)
    run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    model = build(MODEL)
    shardings = param_shardings(make_mesh(MeshConfig(2, 2, 2), jax.devices()[:8]), model)
    flat = names.flatten(restore_params(find_step(tmp_path / "run")[1], model.shapes, shardings))
    for row in names.names(model):
        assert flat[row[0]].dtype == np.float32
        for name, value in to_hf(row, np.asarray(flat[row[0]])):
            np.testing.assert_array_equal(value, tensors[name].astype(np.float32), err_msg=name)


def test_a_parameter_whose_layers_differ_in_type_becomes_float32(small_tokenizer: Path, tmp_path: Path):
    from safetensors.numpy import save_file

    tensors = folder_with(tmp_path / "hf", small_tokenizer, dtype=np.float16)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)
    save_file(tensors, tmp_path / "hf/model.safetensors")
    run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    step = find_step(tmp_path / "run")[1]
    up = read_stored(step, "blocks.mlp.up_DF")
    assert up.dtype == np.float32
    np.testing.assert_array_equal(up[1].T, tensors[name].astype(np.float32))
    assert read_meta(step).checksums["params/blocks.mlp.up_DF"] == written(checksum(up))
    assert read_stored(step, "blocks.mlp.gate_DF").dtype == np.float16


def test_rows_without_a_token_are_kept_and_told(small_tokenizer: Path, tmp_path: Path, tmp_path_factory, capsys):
    smaller = make_tokenizer(tmp_path_factory.mktemp("smaller"), 300)
    tensors = folder_with(tmp_path / "hf", smaller)
    run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    assert "300 pieces, the embedding 320 rows; the 20 padding rows are kept" in capsys.readouterr().out
    step = find_step(tmp_path / "run")[1]
    np.testing.assert_array_equal(read_stored(step, "embed_VD"), tensors["model.embed_tokens.weight"])


# ---------------------------------------------------------------- what is refused


def spoil(tensors: dict[str, np.ndarray]) -> None:
    tensors["model.layers.0.self_attn.k_proj.weight"][2, 3] = np.nan
    tensors["model.norm.weight"][4:6] = -np.inf


def test_nan_and_infinity_are_refused_and_nothing_is_left(small_tokenizer: Path, tmp_path: Path):
    folder_with(tmp_path / "hf", small_tokenizer, spoil, ml_dtypes.bfloat16)
    told = r"in 2 tensors: model.layers.0.self_attn.k_proj.weight \(1\), model.norm.weight \(2\)"
    with pytest.raises(FolderError, match=told):
        run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_folder_that_was_cut_short_leaves_nothing(small_tokenizer: Path, tmp_path: Path):
    folder_with(tmp_path / "hf", small_tokenizer)
    path = tmp_path / "hf/model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FolderError, match="is truncated: 4 bytes are missing"):
        run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path, tmp_path_factory):
    folder_with(tmp_path / "hf", make_tokenizer(tmp_path_factory.mktemp("larger"), 324))
    with pytest.raises(UserError, match="324 pieces, the embedding 320 rows: use the tokenizer of this model"):
        run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_an_import_that_was_killed_is_begun_anew(small_tokenizer: Path, tmp_path: Path):
    folder_with(tmp_path / "hf", small_tokenizer)
    left = tmp_path / ".run.asclepius/new/checkpoints/.0.saving/params"
    left.mkdir(parents=True)
    (left / "manifest.ocdbt").write_bytes(b"half")
    run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "run"]
    assert json.loads((tmp_path / "run/manifest.json").read_text())["kind"] == "import"


def test_a_folder_of_something_else_is_not_overwritten(small_tokenizer: Path, tmp_path: Path):
    folder_with(tmp_path / "hf", small_tokenizer)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="exists and does not contain finished import"):
        run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


# ---------------------------------------------------------------- logits


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_logits_of_an_import_are_compared_with_transformers(
    small_tokenizer: Path, tmp_path: Path, dtype: type, capsys
):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder_with(tmp_path / "hf", small_tokenizer, dtype=dtype)
    run_import(ImportConfig(tmp_path / "hf", tmp_path / "run", verify=True))
    assert f"verified {tmp_path / 'run'}: max |delta| of the logits" in capsys.readouterr().out


def test_an_import_that_transformers_does_not_load_is_set_aside(small_tokenizer: Path, tmp_path: Path):
    """Phi-3 as its first folders were written: LongRoPE as "su", which transformers 5 reads without its length."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    made_family(tmp_path / "hf", "phi4-mini", vocab_size=320)
    raw = json.loads((tmp_path / "hf/config.json").read_text())
    raw["rope_parameters"] = {**raw["rope_parameters"], "rope_type": "su"}
    del raw["rope_parameters"]["original_max_position_embeddings"]
    (tmp_path / "hf/config.json").write_text(json.dumps(raw))
    JsonTokenizer(small_tokenizer).save(tmp_path / "hf")
    with pytest.raises(UserError, match=r"transformers [\d.]+ cannot load .*hf: KeyError: .*Renamed to .*run-FAILED"):
        run_import(ImportConfig(tmp_path / "hf", tmp_path / "run", verify=True))
    assert not (tmp_path / "run").exists()


def test_an_import_that_computes_something_else_is_set_aside(small_tokenizer: Path, tmp_path: Path, monkeypatch):
    """A window that was not read: the weights are right, and no error shows it."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    made_family(tmp_path / "hf", "mistral-v0.1", vocab_size=320)
    JsonTokenizer(small_tokenizer).save(tmp_path / "hf")
    read = import_hf.read_config
    monkeypatch.setattr(
        import_hf, "read_config", lambda folder: dataclasses.replace(read(folder), window=None, layer_kinds=())
    )
    with pytest.raises(
        UserError, match=r"run does not compute what .*hf does: max \|delta\| .*Renamed to .*run-FAILED"
    ):
        run_import(ImportConfig(tmp_path / "hf", tmp_path / "run", verify=True))
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    run_import(ImportConfig(tmp_path / "hf", tmp_path / "run", verify=True))
