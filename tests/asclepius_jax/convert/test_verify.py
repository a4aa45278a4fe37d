"""A folder that is not what the checkpoint holds is found out, and gets a name that says so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asclepius_jax.checkpoint.checksums import written
from asclepius_jax.checkpoint.read import digests_of, find_step, open_array
from asclepius_jax.convert import verify
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.model.huggingface.safetensors import open_folder
from data_prep.contract.errors import UserError
from data_prep.contract.records import file_hash
from data_prep.contract.tokenizer import JsonTokenizer
from tests.helpers.made_inputs import MODEL, make_tokenizer, random_folder

Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def run_dir(small_tokenizer: Path, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("verify")
    random_folder(root / "hf", MODEL)
    JsonTokenizer(small_tokenizer).save(root / "hf")
    run_import(ImportConfig(root / "hf", root / "run"))
    return root / "run"


@pytest.fixture(scope="module")
def good(run_dir: Path) -> Path:
    out = run_dir.parent / "folder"
    run_export(ExportConfig(run_dir, out, "float32"))
    return out


def export(run_dir: Path, out: Path, dtype: Any = "float32") -> None:
    run_export(ExportConfig(run_dir, out, dtype, verify=True))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A finished export that a test may spoil."""
    shutil.copytree(good, tmp_path / "folder")
    return tmp_path / "folder"


def refused(run_dir: Path, folder: Path, told: str) -> None:
    with pytest.raises(UserError, match=f"folder does not match .*/checkpoints/0: .*{told}.*Renamed to .*-FAILED"):
        export(run_dir, folder)
    assert not folder.exists()
    assert (folder.parent / "folder-FAILED/config.json").is_file()


def rewrite(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change one tensor of a folder where it lies."""
    tensors = open_folder(folder)
    value, start = np.array(tensors[name]), tensors.places[name].start
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(start)
        file.write(np.ascontiguousarray(change(value)).tobytes())


def interleave(q: np.ndarray) -> np.ndarray:
    """Meta's order of rotary pairs, the classic mistake."""
    return q.reshape(MODEL.num_heads, 2, MODEL.head_dim // 2, -1).swapaxes(1, 2).reshape(q.shape)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_good_folder_is_compared_by_content_and_by_logits(run_dir: Path, tmp_path: Path, capsys, dtype: str):
    pytest.importorskip("torch")
    export(run_dir, tmp_path / "folder", dtype)
    told = capsys.readouterr().out
    assert "all tensors match the checkpoint; max |delta| of" in told
    assert float(told.split("transformers is ")[1].split()[0]) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_finished_folder_is_verified_as_it_is(run_dir: Path, folder: Path):
    before = (folder / "model.safetensors").stat()
    export(run_dir, folder)
    after = (folder / "model.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    export(run_dir, folder, "bfloat16")  # another one: written anew
    assert open_folder(folder)[Q].dtype == "bfloat16"


def test_a_permuted_projection_is_caught(run_dir: Path, folder: Path):
    rewrite(folder, Q, interleave)
    refused(run_dir, folder, f"the content of {Q} differs")


def test_a_manifest_that_agrees_with_the_mistake_does_not_hide_it(run_dir: Path, folder: Path):
    from asclepius_jax.checkpoint.blocks import tensor_checksum

    rewrite(folder, Q, interleave)
    manifest = json.loads((folder / "manifest.json").read_text())
    shape = (MODEL.embed_dim, MODEL.num_heads, MODEL.head_dim)
    manifest["checksums"][Q] = written(tensor_checksum(open_folder(folder)[Q], "(n h) d -> d n h", shape, 1))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(run_dir, folder, "the content of params/blocks.attention.q_DNH differs")


def test_a_single_bit_is_caught(run_dir: Path, folder: Path):
    def flip(value: np.ndarray) -> np.ndarray:
        value.view(np.uint32)[7] ^= 1
        return value

    rewrite(folder, "model.norm.weight", flip)
    refused(run_dir, folder, "the content of model.norm.weight differs")


def test_two_exchanged_layers_are_caught(run_dir: Path, folder: Path):
    other = np.array(open_folder(folder)["model.layers.0.self_attn.q_proj.weight"])
    value = np.array(open_folder(folder)[Q])
    rewrite(folder, Q, lambda _: other)
    rewrite(folder, "model.layers.0.self_attn.q_proj.weight", lambda _: value)
    refused(run_dir, folder, "the content of model.layers.0.self_attn.q_proj.weight and 1 more differs")


def change_config(folder: Path, **changes: object) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **changes}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: change_config(f, rope_theta=5e5), "its config.json describes another model"),
        (lambda f: change_config(f, max_position_embeddings=512), "its config.json describes another model"),
        (lambda f: change_config(f, eos_token_id=1), "config.json is missing or has changed"),
        (lambda f: (f / "generation_config.json").unlink(), "generation_config.json is missing or has changed"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "truncated"),
        (lambda f: rewrite(f, Q, lambda q: q * np.nan), rf"infinite or NaN values in 1 tensors: {Q} \(1024\)"),
    ],
)
def test_what_else_may_have_changed_is_caught(run_dir: Path, folder: Path, spoil: Callable, told: str):
    spoil(folder)
    refused(run_dir, folder, told)


def test_another_tokenizer_is_caught(run_dir: Path, folder: Path, tmp_path_factory):
    JsonTokenizer(make_tokenizer(tmp_path_factory.mktemp("other"), 300)).save(folder)
    refused(run_dir, folder, "it contains another tokenizer")


def test_logits_that_differ_are_caught(run_dir: Path, folder: Path, monkeypatch):
    pytest.importorskip("torch")
    ours = verify.our_logits
    monkeypatch.setattr(verify, "our_logits", lambda *args: ours(*args) + np.float32(2e-3))
    refused(run_dir, folder, r"max .delta. of the logits of 128 tokens to transformers is 2\.0e-03")


def test_a_second_failure_has_a_name_of_its_own(run_dir: Path, folder: Path, good: Path):
    for _ in range(2):
        rewrite(folder, Q, interleave)
        with pytest.raises(UserError, match="Renamed to"):
            export(run_dir, folder)
        shutil.copytree(good, folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["folder", "folder-FAILED", "folder-FAILED-2"]


def test_a_model_beyond_the_memory_is_compared_by_content_alone(run_dir: Path, folder: Path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr(verify, "available_memory", lambda: 2**18)
    export(run_dir, folder)
    assert "skipped logit comparison: two models in float32 need 0.0 GB, more than half of" in capsys.readouterr().out


def test_a_checkpoint_that_was_damaged_since_is_not_the_folders_fault(run_dir: Path, tmp_path: Path):
    import tensorstore

    shutil.copytree(run_dir, tmp_path / "run")
    run_export(ExportConfig(tmp_path / "run", tmp_path / "folder"))
    step = find_step(tmp_path / "run")[1]
    array = tensorstore.open({**open_array(step, "params", "norm.scale").spec().to_json(), "open": True}).result()
    array[3].write(7.0).result()
    (step / "digests.json").write_text(json.dumps(digests_of(step)))
    manifest = json.loads((tmp_path / "folder/manifest.json").read_text())
    manifest["inputs"] = {"checkpoints/0": file_hash(step / "digests.json")}
    (tmp_path / "folder/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"content of params/norm\.scale is not what was saved\): there is no other"):
        run_export(ExportConfig(tmp_path / "run", tmp_path / "folder", verify=True))
    assert (tmp_path / "folder").is_dir()
