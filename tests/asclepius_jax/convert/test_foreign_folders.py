"""A folder comes in and leaves with the ids, the ends and the logits that transformers finds in it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from asclepius_jax.config import MeshConfig
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.evaluate.answers.models import load_model
from asclepius_jax.evaluate.answers.specs import Decoding, ModelSpec
from asclepius_jax.evaluate.answers.transformer import Transformer
from asclepius_jax.generate.load import load_checkpoint
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface.names import load_params
from asclepius_jax.model.huggingface.safetensors import FolderError
from asclepius_jax.model.sizes import DecoderConfig
from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer import JsonTokenizer
from tests.helpers.evaluation.made_evaluation import all_answers, question
from tests.helpers.made_inputs import MODEL, packed_notes, random_folder, transformers_model

transformers = pytest.importorskip("transformers")

# One more than a row of the vocabulary for each of two added tokens.
GROWN = DecoderConfig(322, 32, 64, 2, 4, 2, head_dim=8, max_length=256)
TIED = DecoderConfig(320, 32, 64, 2, 4, 2, head_dim=8, max_length=256, tie_embeddings=True)


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **changes}))


def through(folder: Path, work: Path, verify: bool = True) -> Path:
    """The folder as it leaves after it came in."""
    run_import(ImportConfig(folder, work / "run"))
    run_export(ExportConfig(work / "run", work / "out", "float32", verify=verify))
    return work / "out"


def our_logits(run: Path, tokens: np.ndarray) -> np.ndarray:
    model, params, _ = load_checkpoint(run, MeshConfig(2, 2, 2))
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    call = jax.jit(lambda p, t, i: model.merge(p)(t, i, np.ones_like(tokens), dtype="float32"))
    return np.asarray(call(params, tokens, positions))


def their_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return theirs(torch.tensor(tokens)).logits.numpy()


@pytest.fixture
def folder(small_tokenizer: Path, tmp_path: Path) -> Path:
    random_folder(tmp_path / "hf", MODEL)
    JsonTokenizer(small_tokenizer).save(tmp_path / "hf")
    return tmp_path / "hf"


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_every_end_of_a_text_leaves(folder: Path, tmp_path: Path, name: str):
    rewrite(folder / name, eos_token_id=[2, 7, 9])
    out = through(folder, tmp_path)
    assert transformers.GenerationConfig.from_pretrained(out).eos_token_id == [2, 7, 9]
    assert transformers.AutoConfig.from_pretrained(out).eos_token_id == [2, 7, 9]
    assert load_checkpoint(tmp_path / "run", MeshConfig(2, 2, 2)).tokenizer.ends == (2, 7, 9)


def test_a_checkpoint_stops_where_transformers_stops(small_tokenizer: Path, tmp_path: Path):
    folder, settings = tmp_path / "hf", Decoding(max_new_tokens=16, prompt_format="asclepius")
    transformers_model(folder, DecoderConfig(320, 32, 64, 2, 4, 2, head_dim=8, max_length=1024), noise=0.2)
    JsonTokenizer(small_tokenizer).save(folder)
    free = Transformer(ModelSpec("m", "hf", str(folder)), settings)
    made, generate = [], free.model.generate
    free.model.generate = lambda **more: made.append(generate(**more)) or made[-1]
    asked = [question(n, note=f"fever {n}", instruction="How long?") for n in range(2)]
    free.answer(asked)
    rewrite(folder / "generation_config.json", eos_token_id=[2, int(made[0][0, -9]), int(made[0][1, -5])])
    stopped = Transformer(ModelSpec("m", "hf", str(folder)), settings).answer(asked)
    run_import(ImportConfig(folder, tmp_path / "run"))
    assert all_answers(load_model(ModelSpec("m", "checkpoint", str(tmp_path / "run")), settings), asked) == stopped
    assert {reason for _, reason in stopped} == {"stop"}


def test_an_end_without_a_row_of_the_embedding_is_refused(folder: Path, tmp_path: Path):
    rewrite(folder / "generation_config.json", eos_token_id=[2, 320])
    with pytest.raises(UserError, match="a text ends at 2, 320, but the embedding has 320 rows: correct eos_token_id"):
        run_import(ImportConfig(folder, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- tokens


def test_an_end_that_was_added_to_a_sentencepiece_model_is_learned_and_leaves(small_tokenizer: Path, tmp_path: Path):
    folder = tmp_path / "hf"
    random_folder(folder, GROWN)
    shutil.copyfile(small_tokenizer / "tokenizer.model", folder / "tokenizer.model")
    rewrite(folder / "added_tokens.json", **{"<|im_end|>": 320, "<|im_start|>": 321})
    rewrite(folder / "special_tokens_map.json", eos_token="<|im_end|>")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.eos_token_id == 320
    manifest = json.loads((packed_notes(tmp_path, folder, 3, 64) / "manifest.json").read_text())
    assert manifest["vocab_size"] == 322
    packed = JsonTokenizer(tmp_path / "packed/tokenizer")
    assert (packed.eos_id, packed.ends, packed.vocab_size) == (320, (320, 2), 322)
    out = through(folder, tmp_path)
    assert JsonTokenizer(out).hash == manifest["tokenizer_hash"]
    again = transformers.AutoTokenizer.from_pretrained(out)
    assert (again.eos_token_id, len(again)) == (320, 322)
    assert again.convert_tokens_to_ids("<|im_start|>") == 321
    assert 320 in transformers.GenerationConfig.from_pretrained(out).eos_token_id


def test_a_prompt_is_asked_without_the_end_that_a_tokenizer_appends(small_tokenizer: Path, tmp_path: Path):
    folder, settings = tmp_path / "hf", Decoding(max_new_tokens=8)
    transformers_model(folder, DecoderConfig(320, 32, 64, 2, 4, 2, head_dim=8, max_length=1024), noise=0.2)
    JsonTokenizer(small_tokenizer).save(folder)
    asked = [question(n, note=f"fever </s> {'and cough ' * n}", instruction="How long?") for n in range(3)]
    plain = Transformer(ModelSpec("m", "hf", str(folder)), settings).answer(asked)
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["post_processor"]["single"].append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    raw["post_processor"]["special_tokens"]["</s>"] = {"id": "</s>", "ids": [2], "tokens": ["</s>"]}
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    assert transformers.AutoTokenizer.from_pretrained(folder)("a")["input_ids"][-1] == 2
    assert Transformer(ModelSpec("m", "hf", str(folder)), settings).answer(asked) == plain
    run_import(ImportConfig(folder, tmp_path / "run"))
    assert all_answers(load_model(ModelSpec("m", "checkpoint", str(tmp_path / "run")), settings), asked) == plain


def test_the_chat_template_of_an_import_leaves_in_both_places(folder: Path, tmp_path: Path):
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    rewrite(folder / "tokenizer_config.json", chat_template=template)
    out = through(folder, tmp_path)
    assert (out / "chat_template.jinja").read_text() == template
    assert json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == template
    packed = packed_notes(tmp_path, folder, 3, 64)  # a trained model has the prompt of its training
    assert not list(packed.glob("tokenizer/*.jinja"))


# ---------------------------------------------------------------- tensors


def resaved(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_tied_model_saved_by_its_head_alone_is_loaded_and_tied(small_tokenizer: Path, tmp_path: Path):
    folder, tokens = tmp_path / "hf", np.random.default_rng(0).integers(3, 320, (2, 40))
    random_folder(folder, TIED)
    JsonTokenizer(small_tokenizer).save(folder)
    expected = their_logits(folder, tokens)
    resaved(folder, lambda t: t.update({"lm_head.weight": t.pop("model.embed_tokens.weight")}))
    np.testing.assert_allclose(their_logits(folder, tokens), expected, atol=1e-5)
    out = through(folder, tmp_path)
    np.testing.assert_allclose(our_logits(tmp_path / "run", tokens), expected, atol=1e-4)
    np.testing.assert_allclose(their_logits(out, tokens), expected, atol=1e-5)
    model = build(TIED)
    params = load_params(folder, model, shardings(model))
    assert "head_DV" not in params


def shardings(model: Any) -> Any:
    from asclepius_jax.distributed.sharding import make_mesh, param_shardings

    return param_shardings(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]), model)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_rotary_frequencies_in_a_folder_are_ignored_as_in_transformers(folder: Path, tmp_path: Path, dtype: type):
    frequencies = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, dtype),
        "model.rotary_emb.inv_freq": np.zeros((2, 2), dtype),
    }
    resaved(folder, lambda t: t.update(frequencies))
    out = through(folder, tmp_path)
    tokens = np.random.default_rng(0).integers(3, 320, (2, 40))
    np.testing.assert_allclose(their_logits(out, tokens), their_logits(folder, tokens), atol=1e-5)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "lm_head.bias", "model.layers.0.mask"])
def test_any_other_tensor_is_named(folder: Path, tmp_path: Path, name: str):
    resaved(folder, lambda t: t.update({name: np.ones(4, np.float32)}))
    with pytest.raises(FolderError, match=f"1 unknown: {name}"):
        run_import(ImportConfig(folder, tmp_path / "run"))


# ---------------------------------------------------------------- rotary settings and windows


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_scaling": LLAMA3},
        {"rope_theta": ..., "rope_scaling": ..., "rope_parameters": {**LLAMA3, "rope_theta": 3e4}},
        {"model_type": "mistral", "sliding_window": 32, "use_sliding_window": False},
        {"model_type": "llama", "sliding_window": 8},
        {"model_type": "mistral"},
        {"rms_norm_eps": ..., "tie_word_embeddings": ...},
    ],
)
def test_the_logits_of_a_folder_are_those_of_transformers(folder: Path, tmp_path: Path, changes: dict[str, Any]):
    raw = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not ...}))
    run_import(ImportConfig(folder, tmp_path / "run"))
    longest = load_checkpoint(tmp_path / "run", MeshConfig(2, 2, 2)).model.config.max_length
    tokens = np.random.default_rng(0).integers(3, 320, (2, min(longest, 120)))
    np.testing.assert_allclose(our_logits(tmp_path / "run", tokens), their_logits(folder, tokens), atol=1e-4)
