"""`asclepius merge`: what leaves is what NumPy computes from whole models, in a folder like that of an export."""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from asclepius_jax.checkpoint.blocks import blocks, tensor_checksum
from asclepius_jax.checkpoint.checksums import added
from asclepius_jax.checkpoint.read import find_step, read_meta, read_stored
from asclepius_jax.config import InitConfig, LoraConfig, TrainConfig
from asclepius_jax.convert import merge_adapters
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.convert.merge import merging
from asclepius_jax.convert.merge.merging import MergeConfig, run_merge
from asclepius_jax.convert.merge.parents import read_weights
from asclepius_jax.convert.merge.tensor_rows import FolderReader, StepReader, chunk_cache, row_blocks
from asclepius_jax.convert.weights import tensors_of
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import names as hf
from asclepius_jax.model.huggingface.safetensors import open_folder
from asclepius_jax.train.setup import load_rows
from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer import JsonTokenizer
from tests.asclepius_jax.convert.merge.test_merge_methods import slerp, ties
from tests.helpers.command_line import Ask, one_line
from tests.helpers.made_inputs import MODEL, make_tokenizer, random_folder, to_hf, transformers_model
from tests.helpers.training.small_run import save_random_adapters

BLOCK = 300  # elements: every matrix has several blocks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "BLOCK_ELEMENTS", BLOCK)


def folder_of(path: Path, tokenizer: Path, seed: int, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """A Hugging Face folder with random weights; returns them as float32."""
    tensors = random_folder(path, MODEL, dtype, seed)
    JsonTokenizer(tokenizer).save(path)
    return {name: x.astype(np.float32) for name, x in tensors.items()}


@pytest.fixture
def models(small_tokenizer: Path, tmp_path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The weights of the folders a, b and base in the folder of the test."""
    seeds = {"a": (1, np.float32), "b": (2, ml_dtypes.bfloat16), "base": (3, np.float16)}
    return {name: folder_of(tmp_path / name, small_tokenizer, *made) for name, made in seeds.items()}


def merge(tmp_path: Path, *given: str, **settings: Any) -> dict[str, np.ndarray]:
    """The tensors of the folder that results from models in `tmp_path`."""
    if "base" in settings:
        settings["base"] = str(tmp_path / settings["base"])
    out = tmp_path / "out"
    run_merge(MergeConfig(tuple(str(tmp_path / name) for name in given), out, **{"dtype": "float32", **settings}))
    return {name: np.array(x) for name, x in open_folder(out).items()}


def assert_same_tensors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name, strict=True)


# ---------------------------------------------------------------- weights


def test_every_matrix_has_several_blocks():
    blocks = row_blocks(build(MODEL), BLOCK)
    assert all(len(found) > 1 for name, found in blocks.items() if "proj" in name or "embed" in name or "head" in name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "inputs", [(np.float32, np.float32), (ml_dtypes.bfloat16,) * 2, (ml_dtypes.bfloat16, np.float32)]
)
def test_linear_equals_numpy_to_the_bit(small_tokenizer: Path, tmp_path: Path, inputs: tuple[Any, Any], dtype: str):
    a, b = (
        folder_of(tmp_path / name, small_tokenizer, seed, of)
        for seed, (name, of) in enumerate(zip("ab", inputs, strict=True))
    )
    found = merge(tmp_path, "a=0.6", "b=0.4", dtype=dtype)
    expected = {name: (np.float32(0.6) * a[name] + np.float32(0.4) * b[name]).astype(dtype) for name in a}
    assert_same_tensors(found, expected)


def test_weights_are_scaled_to_a_sum_of_one(models, tmp_path: Path):
    once = merge(tmp_path, "a=0.6", "b=0.4")
    assert_same_tensors(merge(tmp_path, "a=3", "b=2"), once)
    equal = merge(tmp_path, "a", "b", "base")
    a, b, base = ({name: np.float32(1 / 3) * x for name, x in models[of].items()} for of in ("a", "b", "base"))
    assert_same_tensors(equal, {name: a[name] + b[name] + base[name] for name in a})


def test_the_other_methods_equal_their_formulas(models, tmp_path: Path):
    a, b, base = (models[name] for name in ("a", "b", "base"))
    found = merge(tmp_path, "a=1", "b=3", method="slerp")
    for name, x in a.items():
        np.testing.assert_allclose(
            found[name].ravel(), slerp(x.ravel(), b[name].ravel(), 0.75), atol=1e-6, err_msg=name
        )
    found = merge(tmp_path, "a=0.4", "b=0.7", method="task-arithmetic", base="base")
    for name, x in a.items():
        expected = base[name] + 0.4 * (x - base[name]) + 0.7 * (b[name] - base[name])
        np.testing.assert_allclose(found[name], expected, atol=1e-6, err_msg=name)
    found = merge(tmp_path, "a=0.4", "b=0.7", method="ties", base="base", density=0.3)
    for name in a:
        expected = ties(base[name].ravel(), [a[name].ravel(), b[name].ravel()], [0.4, 0.7], 0.3)
        np.testing.assert_allclose(found[name].ravel(), expected, atol=1e-6, err_msg=name)


# ---------------------------------------------------------------- checkpoints


@pytest.fixture
def adapters(base: TrainConfig, small_tokenizer: Path, tmp_path: Path) -> Path:
    """A run of adapters on a folder."""
    folder_of(tmp_path / "root", small_tokenizer, 4)
    root, lora = InitConfig(hf=str(tmp_path / "root")), LoraConfig(rank=4, alpha=6.0, base_dtype="float32")
    config = dataclasses.replace(base, run_dir=str(tmp_path / "lora"), model=root.hf, init=root, lora=lora)
    save_random_adapters(config, load_rows(base.data.path[0]))
    return tmp_path / "lora"


def test_a_folder_a_checkpoint_and_adapters_of_the_same_weights_merge_alike(
    models, adapters: Path, tmp_path: Path, monkeypatch
):
    # The embedding of a large model is merged in several parts.
    monkeypatch.setattr(merge_adapters, "blocks", lambda shape, *_: blocks(shape, (1,) * len(shape), 4, 1000))
    run_export(ExportConfig(adapters, tmp_path / "exported", "float32"))
    run_import(ImportConfig(tmp_path / "exported", tmp_path / "run"))
    expected = merge(tmp_path, "exported=0.3", "a=0.7")
    assert_same_tensors(merge(tmp_path, "lora=0.3", "a=0.7"), expected)
    assert_same_tensors(merge(tmp_path, "run/checkpoints/0=0.3", "a=0.7"), expected)
    assert not list(tmp_path.glob(".*"))
    for settings in ({"method": "slerp"}, {"method": "ties", "base": "base"}):
        expected = merge(tmp_path, "a", "exported", **settings)
        assert_same_tensors(merge(tmp_path, "a", "lora", **settings), expected)
        assert_same_tensors(merge(tmp_path, "a", "run", **settings), expected)
    expected = merge(tmp_path, "a=0.5", method="task-arithmetic", base="exported")
    assert_same_tensors(merge(tmp_path, "a=0.5", method="task-arithmetic", base="lora"), expected)


def test_the_last_checkpoints_of_a_run_are_averaged(unbroken: Path, tmp_path: Path):
    run_merge(MergeConfig((str(unbroken),), tmp_path / "out", last=2, dtype="float32"))
    found = open_folder(tmp_path / "out")
    for row in hf.names(build(MODEL)):
        halves = [np.float32(0.5) * read_stored(unbroken / f"checkpoints/{step}", row[0]) for step in (8, 9)]
        for name, value in to_hf(row, halves[0] + halves[1]):
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    card = (tmp_path / "out/README.md").read_text()
    assert "| Row length | 32 tokens |" in card
    assert "\nlicense: cc0-1.0\n" in card
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["weights"] == dict.fromkeys(
        (f"{unbroken.name}/checkpoints/8", f"{unbroken.name}/checkpoints/9"), 0.5
    )
    with pytest.raises(UserError, match=r"--last 4: .* contains 3 checkpoints"):
        run_merge(MergeConfig((str(unbroken),), tmp_path / "other", last=4))


@pytest.mark.parametrize("name", ["llama-biased", "phi3", "gemma3", "olmo2", "apertus", "qwen3-tied", "seed-oss-out"])
def test_the_rows_of_every_layout_are_those_of_folder_and_checkpoint(name: str, small_tokenizer: Path, tmp_path: Path):
    """Fused matrices, biases of heads, scalars, a vocabulary with rows of padding: in blocks of few rows."""
    _ = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tests.helpers.huggingface.made_families import made_family

    made_family(tmp_path / "hf", name, vocab_size=331)
    JsonTokenizer(small_tokenizer).save(tmp_path / "hf")
    run_import(ImportConfig(tmp_path / "hf", tmp_path / "run"))
    meta = read_meta(step := find_step(tmp_path / "run")[1])
    model = build(meta.model)
    folder, saved = FolderReader(tmp_path / "hf", model), StepReader(step, model, meta, chunk_cache())
    tensors, ours = hf.open_model(tmp_path / "hf", model), hf.flatten(model.shapes)
    blocks = row_blocks(model, 200)
    for tensor in tensors_of(model):
        whole = tensors[tensor.theirs]
        parts = [folder.read(rows) for rows in blocks[tensor.theirs]]
        np.testing.assert_array_equal(np.concatenate([part.reshape(-1) for part in parts]), whole.reshape(-1))
        for rows, part in zip(blocks[tensor.theirs], parts, strict=True):
            np.testing.assert_array_equal(saved.read(rows), part, strict=True)
        shape = ours[tensor.ours].shape[tensor.layer is not None :]
        sums = added(rows.checksum(part) for rows, part in zip(blocks[tensor.theirs], parts, strict=True))
        assert sums.tolist() == tensor_checksum(whole, tensor.layout, shape, tensor.layer).tolist()
    saved.check()


def test_a_damaged_checkpoint_is_refused(models, tmp_path: Path, monkeypatch):
    run_import(ImportConfig(tmp_path / "a", tmp_path / "run"))
    original = StepReader.read

    def damaged(self: StepReader, rows: Any) -> np.ndarray:
        values = original(self, rows)
        self.sums[rows.tensor.theirs, rows.start] ^= 1
        return values

    monkeypatch.setattr(StepReader, "read", damaged)
    with pytest.raises(UserError, match=r"is damaged \(the content of params/\S+ is not what was saved\)"):
        merge(tmp_path, "run", "b")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the folder


def test_transformers_computes_the_logits_of_the_merged_weights(small_tokenizer: Path, tmp_path: Path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    first = transformers_model(tmp_path / "a", MODEL)
    second = transformers_model(tmp_path / "b", MODEL, noise=0.2)
    for name in "ab":
        JsonTokenizer(small_tokenizer).save(tmp_path / name)
    merge(tmp_path, "a=0.25", "b=0.75")
    found, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not {*info["missing_keys"], *info["unexpected_keys"]}
    tokens = torch.tensor(np.random.default_rng(0).integers(3, MODEL.vocab_size, (2, 40)))
    with torch.no_grad():
        before = first(tokens).logits
        for one, other in zip(first.parameters(), second.parameters(), strict=True):
            one.mul_(0.25).add_(0.75 * other)
        expected, logits = first(tokens).logits, found.eval()(tokens).logits
    assert float((logits - expected).abs().max()) < 1e-5
    assert float((logits - before).abs().max()) > 0.01


def test_the_folder_is_like_that_of_an_export(models, tmp_path: Path):
    merge(tmp_path, "a=0.6", "b=0.4", max_shard_size=50e-6)
    run_import(ImportConfig(tmp_path / "out", tmp_path / "run"))
    run_export(ExportConfig(tmp_path / "run", tmp_path / "exported", "float32", max_shard_size=50e-6))
    out, exported = tmp_path / "out", tmp_path / "exported"
    listing = sorted(path.name for path in exported.iterdir())
    assert sorted(path.name for path in out.iterdir()) == listing
    assert len([name for name in listing if name.endswith(".safetensors")]) >= 3
    for name in listing:
        same = (out / name).read_bytes() == (exported / name).read_bytes()
        assert same == (name not in ("manifest.json", "README.md")), name
    ours, theirs = (json.loads((folder / "manifest.json").read_text()) for folder in (out, exported))
    for key in ("kind", "in", "out", "dtype", "files", "checksums", "tokenizer_hash"):
        assert ours[key] == theirs[key], key


def test_prompt_and_settings_are_those_of_the_first_model(models, tmp_path: Path):
    (tmp_path / "a/chat_template.jinja").write_text("{{ messages[0].content }} of a")
    (tmp_path / "b/chat_template.jinja").write_text("{{ messages[0].content }} of b")
    (tmp_path / "a/generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    merge(tmp_path, "a", "b")
    assert (tmp_path / "out/chat_template.jinja").read_text().endswith("of a")
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == [2, 7]


def test_the_card_names_method_models_and_licences_but_no_place(models, tmp_path: Path):
    cached = tmp_path / "models--lab--mine/snapshots/abc"
    shutil.copytree(tmp_path / "b", cached)
    (cached / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-nc-sa-4.0\n---\n")
    (tmp_path / "base/README.md").write_text("---\nlicense: llama2\n---\n")
    for name in ("a", "base"):
        shutil.copytree(tmp_path / name, tmp_path / f"other/{name}")
    merge(tmp_path, str(cached), "other/a", "a", method="ties", base="other/base", density=0.25)
    card = (tmp_path / "out/README.md").read_text()
    assert "base_model:\n  - lab/mine\nbase_model_relation: merge" in card
    for row in (
        "| Method | TIES", "| Model 1 | lab/mine, weight 0.333333 |", "| Model 2 | a (2), weight", "| Model 3 | a (3),",
        "| Base | base |", "| Density | 0.25 |", "| lab/mine | cc-by-nc-sa-4.0 |", "| a (2) | not recorded |",
        "| base | llama2 |",
    ):  # fmt: skip
        assert row in card, row
    assert "\nlicense:" not in card
    assert "Not for clinical use" in card
    for path in (tmp_path / "out").iterdir():
        for place in (tempfile.gettempdir(), str(Path.home()), str(Path.cwd())):
            assert place.encode() not in path.read_bytes(), (path.name, place)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert set(manifest["inputs"]) == {"lab/mine", "a (2)", "a (3)", "base"}
    assert [manifest[name] for name in ("method", "base", "density")] == ["ties", "base", 0.25]


def test_the_licence_is_that_of_all_models(models, tmp_path: Path):
    (tmp_path / "a/README.md").write_text("---\nlicense: mit\n---\n")
    for other, line in (
        ("mit", "license: mit\ntags"),
        ("llama2", "license: other\nlicense_name: those-of-the-merged-"),
    ):
        (tmp_path / "b/README.md").write_text(f"---\nlicense: {other}\n---\n")
        merge(tmp_path, "a", "b")
        assert f"\n{line}" in (tmp_path / "out/README.md").read_text()


def test_what_was_not_written_rightly_is_found(models, tmp_path: Path, monkeypatch):
    original = merging.write_bytes

    def flipped(path: Path, start: int, array: np.ndarray) -> None:
        array = array.copy()
        array.reshape(-1).view(np.uint8)[-1] ^= 1
        original(path, start, array)

    monkeypatch.setattr(merging, "write_bytes", flipped)
    with pytest.raises(UserError, match=r"\d+ tensors read back from the disk are not those that were written"):
        merge(tmp_path, "a", "b")
    assert not (tmp_path / "out").exists()
    merge(tmp_path, "a", "b", verify=False)


def test_a_merge_with_a_restricted_model_is_restricted(models, tmp_path: Path):
    merge(tmp_path, "a", "b")
    before = json.loads((tmp_path / "out/manifest.json").read_text())
    (tmp_path / "b/manifest.json").write_text('{"restricted": true}')
    merge(tmp_path, "a", "b")
    after = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (before["restricted"], after["restricted"]) == (False, True)


def test_infinite_values_do_not_leave(models, tmp_path: Path):
    with pytest.raises(hf.FolderError, match="the result contains infinite or NaN values in"):
        merge(tmp_path, "a=1e38", "b=-1e39", method="task-arithmetic", base="base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "base"]


# ---------------------------------------------------------------- what is refused


def test_the_weight_follows_the_last_equals_sign(tmp_path: Path):
    (tmp_path / "lr=1e-5").mkdir()
    plain, with_equals = str(tmp_path / "run"), str(tmp_path / "lr=1e-5")
    given = (plain, f"{plain}=0.25", with_equals, f"{with_equals}=0.5", f"{plain}/a=b=-1")
    assert read_weights(given) == (
        [plain, plain, with_equals, with_equals, f"{plain}/a=b"],
        [None, 0.25, None, 0.5, -1],
    )


@pytest.fixture
def strange(models, tmp_path: Path, tmp_path_factory) -> Path:
    """Next to the models: one of another shape, and one with another tokenizer."""
    shutil.copytree(tmp_path / "a", tmp_path / "longer")
    longer = dataclasses.replace(MODEL, max_length=512, rope_theta=5e5)
    (tmp_path / "longer/config.json").write_text(hf.write_config(longer, "float32", {"eos_token_id": 2}))
    shutil.copytree(tmp_path / "a", tmp_path / "spelt")
    JsonTokenizer(make_tokenizer(tmp_path_factory.mktemp("other"), 300)).save(tmp_path / "spelt")
    return tmp_path


REFUSED = (
    (
        "a longer",
        "longer contains another model: max_length 512 there, 256 here; rope_theta 500000.0 there, 10000.0 here",
    ),
    ("a spelt", "spelt has another tokenizer than "),
    ("a absent", "absent contains neither config.json nor checkpoints: name a Hugging Face folder or a run"),
    ("a=0.5 b=much", "the weight 'much' is not a number; write PATH=WEIGHT"),
    ("a=0.5 b=nan", "the weight 'nan' is not a number"),
    ("a=0.5 b", "give every model a weight, as in PATH=0.5, or none"),
    ("a=1 b=-1", "the weights 1 -1 sum to 0, and cannot be scaled to a sum of 1"),
    (" --method ties --base BASE", "--models names no model: give each as PATH or PATH=WEIGHT"),
    ("a", "linear merges at least two models; for the last checkpoints of a run add --last N"),
    ("a b base --method slerp", "slerp merges two models, not 3"),
    ("a=-1 b=2 --method slerp", "the weights -1 2 of slerp must be 0 or more"),
    ("a b --method ties", "--method ties needs --base"),
    ("a b --method task-arithmetic --base BASE", "task-arithmetic needs a weight for every model"),
    ("a=1 b=0 --method ties --base BASE", "the weights 1 0 of ties must all be above 0"),
    ("a b --base BASE", "linear uses no base; omit the flag, or choose another --method"),
    ("a b --method ties --base BASE --density 0", "--density 0.0: it must be above 0"),
    ("a b --method ties --base BASE --density 1.5", "--density 1.5: it must be above 0 and at most 1"),
    ("a --last -1", "--last -1: it must be 1 or more"),
    ("a b --last 2", "--last 2 is for --method linear and one run folder in --models"),
    ("a --last 2", "--last 2: "),
    ("a=1 --last 1", "with --last all count the same"),
)


@pytest.mark.parametrize(("line", "told"), REFUSED)
def test_a_mistake_ends_in_one_line(strange: Path, refused: Ask, line: str, told: str):
    before = sorted(strange.rglob("*"))
    given, _, flags = line.partition(" --")
    words = [*(str(strange / name) for name in given.split()), *(f"--{flags}".split() if flags else [])]
    words = [str(strange / "base") if word == "BASE" else word for word in words]
    assert told in one_line(refused("merge", "--models", *words, "--out", strange / "out"))
    assert sorted(strange.rglob("*")) == before


def test_an_unknown_method_is_refused_with_those_there_are(models, refused: Ask, tmp_path: Path):
    told = refused("merge", "--models", tmp_path / "a", tmp_path / "b", "--method", "mean", "--out", tmp_path / "out")
    assert all(name in told for name in ("linear", "slerp", "task-arithmetic", "ties"))
    assert not (tmp_path / "out").exists()


def test_an_input_is_not_replaced(models, refused: Ask, tmp_path: Path):
    given = tmp_path / "a", tmp_path / "b"
    before = sorted(tmp_path.rglob("*"))
    assert "contains the input" in one_line(refused("merge", "--models", *given, "--out", given[1]))
    assert sorted(tmp_path.rglob("*")) == before
