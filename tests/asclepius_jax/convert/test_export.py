"""What leaves as a Hugging Face folder is what was trained, bit for bit, and transformers computes the same with it."""

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import tensorstore

from asclepius_jax.checkpoint.checksums import added, checksum
from asclepius_jax.checkpoint.read import digests_of, find_step, open_array, read_meta, read_stored
from asclepius_jax.config import (
    BatchConfig,
    ComputeConfig,
    DataConfig,
    InitConfig,
    LogConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from asclepius_jax.convert import weights
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.generate.load import load_checkpoint
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import names as hf
from asclepius_jax.model.huggingface.safetensors import open_folder, open_safetensors
from asclepius_jax.train.loop import train
from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer import JsonTokenizer
from data_prep.pack import run as pack
from tests.helpers.made_inputs import (
    MODEL,
    TOKEN_IDS,
    example,
    make_tokenizer,
    packed_notes,
    random_folder,
    to_hf,
    transformers_model,
    write_records,
)

transformers = pytest.importorskip("transformers")

LENGTH = 64


@pytest.fixture(scope="module")
def start(small_tokenizer: Path, tmp_path_factory) -> Path:
    """A random model that transformers made and saved, with a tokenizer."""
    folder = tmp_path_factory.mktemp("start")
    JsonTokenizer(small_tokenizer).save(folder)
    transformers_model(folder, MODEL)
    return folder


@pytest.fixture(scope="module")
def imported(start: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "run"
    run_import(ImportConfig(start, out))
    return out


@pytest.fixture(scope="module")
def tuned(start: Path, imported: Path, small_tokenizer: Path, tmp_path_factory) -> Path:
    """The imported model after four steps on packed examples."""
    root = tmp_path_factory.mktemp("tuned")
    examples = [example(f"e{i}", f"fever for {i} days", "How long?", f"For {i} days.") for i in range(60)]
    write_records(root / "examples", examples)
    (root / "prompt.txt").write_text("{note}\n{instruction}\n")
    prompt = str(root / "prompt.txt")
    pack.run(pack.PackConfig(root / "examples", root / "packed", small_tokenizer, LENGTH, 1, prompt, 1))
    rows = json.loads((root / "packed/manifest.json").read_text())["rows"]
    config = TrainConfig(
        run_dir=str(root / "run"),
        model=str(start),
        init=InitConfig(checkpoint=str(imported)),
        data=DataConfig(str(root / "packed"), row_length=LENGTH, epochs=4.5 * 8 / rows),
        batch=BatchConfig(8),
        mesh=MeshConfig(2, 2, 2),
        compute=ComputeConfig("float32", "none"),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        log=LogConfig(tensorboard=False, progress=False),
        few_steps=True,
    )
    return train(config)


@pytest.fixture(scope="module")
def exported(tuned: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "folder"
    run_export(ExportConfig(tuned, out, "float32", max_shard_size=50e-6))
    return out


def stored(run_dir: Path) -> dict[str, np.ndarray]:
    """Hugging Face name -> tensor of a run's newest checkpoint."""
    folder = find_step(run_dir)[1]
    model = build(MODEL)
    return {name: x for row in hf.names(model) for name, x in to_hf(row, read_stored(folder, row[0]))}


# ---------------------------------------------------------------- weights


def test_float32_tensors_are_those_of_the_checkpoint_bit_for_bit(tuned: Path, exported: Path):
    expected, tensors = stored(tuned), open_folder(exported)
    assert tensors.keys() == expected.keys() == hf.hf_shapes(build(MODEL)).keys()
    for name, value in expected.items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)


def test_bfloat16_tensors_are_the_nearest_ones(tuned: Path, tmp_path: Path):
    run_export(ExportConfig(tuned, tmp_path / "folder"))
    tensors = open_folder(tmp_path / "folder")
    for name, value in stored(tuned).items():
        assert tensors[name].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(tensors[name], value.astype(ml_dtypes.bfloat16), err_msg=name)
        # Eight bits of mantissa: rounded to nearest, a value moves by at most one part in 256 of itself.
        assert (np.abs(tensors[name].astype(np.float32) - value) <= np.abs(value) / 256).all()
    assert json.loads((tmp_path / "folder/config.json").read_text())["torch_dtype"] == "bfloat16"
    assert not (tmp_path / "folder/model.safetensors.index.json").exists()


def test_what_was_imported_leaves_unchanged(start: Path, imported: Path, tmp_path: Path):
    run_export(ExportConfig(imported, tmp_path / "folder", "float32"))
    before, after = open_folder(start), open_folder(tmp_path / "folder")
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert hf.read_config(tmp_path / "folder") == hf.read_config(start) == MODEL


def test_a_small_shard_size_makes_shards_and_their_index(exported: Path):
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in exported.glob("*.safetensors"))
    assert len(files) >= 3
    assert files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    held = {file: open_safetensors(exported / file) for file in files}
    assert {name: file for file in files for name in held[file]} == index["weight_map"]
    assert index["metadata"]["total_size"] == sum(x.nbytes for tensors in held.values() for x in tensors.values())
    assert all(sum(x.nbytes for x in tensors.values()) <= 50_000 for tensors in held.values())


def test_training_changed_every_tensor(start: Path, tuned: Path):
    before, after = open_folder(start), stored(tuned)
    assert not [name for name, value in before.items() if np.array_equal(value, after[name])]


# ---------------------------------------------------------------- transformers


def test_transformers_computes_our_logits_after_training(tuned: Path, exported: Path):
    torch = pytest.importorskip("torch")
    theirs, told = transformers.AutoModelForCausalLM.from_pretrained(
        exported, dtype=torch.float32, output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    model, params, _ = load_checkpoint(tuned, MeshConfig(2, 2, 2))
    tokens = np.random.default_rng(0).integers(3, MODEL.vocab_size, (8, 50))
    positions = np.broadcast_to(np.arange(50), tokens.shape)
    call = jax.jit(lambda p, t, i: model.merge(p)(t, i, np.ones_like(tokens), dtype="float32"))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    assert np.abs(np.asarray(call(params, tokens, positions)) - expected).max() < 1e-4
    assert np.abs(expected).max() > 0.1


def test_transformers_reads_the_tokenizer_and_the_settings(tuned: Path, exported: Path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported, split_special_tokens=True)
    ours = JsonTokenizer(tuned / "tokenizer")
    text = "  fever </s> for 7 days\n\n"
    assert tokenizer(text)["input_ids"] == [ours.bos_id, *ours.encode_batch([text])[0]]
    settings = transformers.GenerationConfig.from_pretrained(exported)
    assert (settings.bos_token_id, settings.eos_token_id, settings.do_sample) == (1, 2, False)
    assert settings.pad_token_id not in (1, 2)
    assert (exported / "tokenizer.model").is_file() == (tuned / "tokenizer/tokenizer.model").is_file()


def test_the_chat_template_renders_the_prompt_of_the_checkpoint(exported: Path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    messages = [{"role": "system", "content": "fever"}, {"role": "user", "content": "How long?"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<s>fever\nHow long?\n"


def test_a_pretrained_model_has_no_chat_template(imported: Path, tmp_path: Path):
    run_export(ExportConfig(imported, tmp_path / "folder"))
    assert not (tmp_path / "folder/chat_template.jinja").exists()
    assert (tmp_path / "folder/generation_config.json").is_file()


def test_the_card_and_the_manifest_say_where_the_weights_come_from(exported: Path):
    card = (exported / "README.md").read_text()
    assert f"{MODEL.num_params:,}" in card
    assert "CC0 (60)" in card
    assert "Not for clinical use" in card
    manifest = json.loads((exported / "manifest.json").read_text())
    assert (manifest["kind"], manifest["step"], manifest["dtype"]) == ("export", 4, "float32")
    assert manifest["out"] == len(manifest["checksums"]) == len(hf.hf_shapes(build(MODEL)))
    assert all("sha256" not in file for file in manifest["files"])


def test_nothing_in_the_folder_says_where_things_lie_here(exported: Path, tuned: Path):
    meta = read_meta(find_step(tuned)[1])
    assert meta.config["run_dir"].startswith(tempfile.gettempdir())
    for path in exported.iterdir():
        head = path.read_bytes()[:100_000] if path.suffix == ".safetensors" else path.read_bytes()
        for place in (tempfile.gettempdir(), str(Path.home()), str(Path.cwd()), str(exported.parent), str(tuned)):
            assert place.encode() not in head, (path.name, place)


def test_the_checksums_of_the_manifest_are_those_of_the_parameters(tuned: Path, exported: Path):
    """A parameter's tensors add up to it: what a reader of the folder alone can check."""
    listed = json.loads((exported / "manifest.json").read_text())["checksums"]
    step, model = find_step(tuned)[1], build(MODEL)
    for ours, theirs, _ in hf.names(model):
        layers = range(MODEL.num_layers if "{}" in theirs else 1)
        lanes = [[int(listed[theirs.format(i)][half : half + 8], 16) for half in (0, 8)] for i in layers]
        total = added(np.array(lane, np.uint32) for lane in lanes)
        assert total.tolist() == np.asarray(checksum(read_stored(step, ours))).tolist()


@pytest.mark.parametrize("source", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("target", ["float32", "bfloat16"])
def test_each_type_leaves_as_each(small_tokenizer: Path, tmp_path: Path, source: type, target: str):
    tensors = random_folder(tmp_path / "hf", MODEL, source)
    JsonTokenizer(small_tokenizer).save(tmp_path / "hf")
    run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    run_export(ExportConfig(tmp_path / "run", tmp_path / "out", target, verify=True))
    found = open_folder(tmp_path / "out")
    for name, value in tensors.items():
        assert found[name].dtype == np.dtype(target)
        np.testing.assert_array_equal(found[name], value.astype(np.float32).astype(target), err_msg=name)


# ---------------------------------------------------------------- several processes


def test_two_processes_write_the_folder_of_one(tuned: Path, exported: Path, tmp_path: Path):
    command = [
        *(sys.executable, "-c", "from asclepius_jax.cli import main; main()", "export"),
        *("--checkpoint", tuned, "--out", tmp_path / "folder"),
        *("--dtype", "float32", "--max-shard-size", "50e-6", "--processes", "2", "--process-id"),
    ]
    started = [
        subprocess.Popen([*map(str, command), str(i)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for i in (0, 1)
    ]
    told = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert "process 1 of 2 has written all its files" in told[1]
    names = sorted(path.name for path in exported.iterdir())
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == names
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    for name in names:
        ours, theirs = ((folder / name).read_bytes() for folder in (tmp_path / "folder", exported))
        assert ours == theirs or name == "manifest.json", name
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "folder", exported)]
    assert manifests[0] == manifests[1]


def test_process_0_does_not_wait_for_ever(tuned: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(weights, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"process 1 of 2 has written nothing for 0\.5 s"):
        run_export(ExportConfig(tuned, tmp_path / "folder", share=weights.Share(0, 2)))
    assert not list(tmp_path.iterdir())


def test_the_part_of_another_export_is_not_taken(tuned: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(weights, "PATIENCE_SECONDS", 0.5)
    run_export(ExportConfig(tuned, tmp_path / "folder", "float32", 50e-6, share=weights.Share(1, 2)))
    with pytest.raises(UserError, match="process 1 of 2 has written nothing"):
        run_export(ExportConfig(tuned, tmp_path / "folder", "bfloat16", 50e-6, share=weights.Share(0, 2)))
    run_export(ExportConfig(tuned, tmp_path / "folder", "float32", 50e-6, share=weights.Share(0, 2)))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# ---------------------------------------------------------------- what is refused


def test_a_folder_of_something_else_is_not_overwritten(tuned: Path, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="exists and does not contain finished exported weights"):
        run_export(ExportConfig(tuned, tmp_path / "folder"))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["thesis.tex"]


def test_an_earlier_export_is_replaced_whole(tuned: Path, tmp_path: Path):
    run_export(ExportConfig(tuned, tmp_path / "folder", "float32", max_shard_size=50e-6))
    run_export(ExportConfig(tuned, tmp_path / "folder", "float32"))
    assert [path.name for path in (tmp_path / "folder").glob("*.safetensors")] == ["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_tokenizer_that_was_swapped_is_refused(imported: Path, tmp_path: Path, tmp_path_factory):
    shutil.copytree(imported, tmp_path / "run")
    JsonTokenizer(make_tokenizer(tmp_path_factory.mktemp("other"), 300)).save(tmp_path / "run/tokenizer")
    with pytest.raises(UserError, match=r"is not the tokenizer that .* was trained with"):
        run_export(ExportConfig(tmp_path / "run", tmp_path / "folder"))


def damaged(run_dir: Path, copy: Path, name: str, change) -> Path:
    """A copy of a run in whose newest step an array was changed after it was saved, and the files' digests with it."""
    shutil.copytree(run_dir, copy)
    step = find_step(copy)[1]
    array = tensorstore.open({**open_array(step, "params", name).spec().to_json(), "open": True}).result()
    value = array.read().result()
    change(value)
    array.write(value).result()
    (step / "digests.json").write_text(json.dumps(digests_of(step)))
    return copy


def flip(value: np.ndarray) -> None:
    value.view(np.uint32)[1, 3, 2] ^= 1


def test_a_flipped_bit_does_not_leave(tuned: Path, tmp_path: Path):
    run_dir = damaged(tuned, tmp_path / "run", "blocks.mlp.up_DF", flip)
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(UserError, match=r"content of params/blocks.mlp.up_DF is not what was saved\): there is no"):
            run_export(ExportConfig(run_dir, tmp_path / "folder", dtype))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_nan_does_not_leave(small_tokenizer: Path, tmp_path: Path, monkeypatch):
    from asclepius_jax.convert import import_hf

    random_folder(tmp_path / "hf", MODEL)
    JsonTokenizer(small_tokenizer).save(tmp_path / "hf")
    with (tmp_path / "hf/model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(np.nan).tobytes())
    monkeypatch.setattr(import_hf, "check_finite", lambda *_: None)
    run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    with pytest.raises(hf.FolderError, match=r"infinite or NaN values in 1 tensors: model.norm.weight \(1\)"):
        run_export(ExportConfig(tmp_path / "run", tmp_path / "folder"))
    assert not (tmp_path / "folder").exists()


def test_a_checkpoint_that_is_being_written_is_refused(tmp_path: Path):
    (tmp_path / "run/checkpoints/.5.saving/params").mkdir(parents=True)
    with pytest.raises(UserError, match=r"\.5\.saving is still being written, or was left by a killed run"):
        run_export(ExportConfig(tmp_path / "run", tmp_path / "folder"))
    assert not (tmp_path / "folder").exists()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="contains no checkpoint: name a run folder"):
        run_export(ExportConfig(tmp_path, tmp_path / "folder"))


def test_an_import_never_replaces_a_run(start: Path, imported: Path):
    with pytest.raises(UserError, match="already contains checkpoints"):
        run_import(ImportConfig(start, imported))


def test_an_embedding_smaller_than_the_vocabulary_is_refused(start: Path, small_tokenizer: Path, tmp_path: Path):
    JsonTokenizer(small_tokenizer).save(tmp_path)
    smaller = dataclasses.replace(MODEL, vocab_size=256)
    (tmp_path / "config.json").write_text(hf.write_config(smaller, "float32", TOKEN_IDS))
    with pytest.raises(UserError, match="320 pieces, the embedding 256 rows"):
        run_import(ImportConfig(tmp_path, tmp_path / "run"))


def test_a_pretraining_folder_packs_with_the_exported_tokenizer(exported: Path, tmp_path: Path):
    """The exported folder is itself a tokenizer for the next phase, with the same hash."""
    folder = packed_notes(tmp_path, exported, 5, LENGTH)
    hashes = [json.loads((path / "manifest.json").read_text())["tokenizer_hash"] for path in (folder, exported)]
    assert hashes[0] == hashes[1]
