"""Of any variant of a folder: what is accepted computes what transformers computes, and everything else is refused."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from asclepius_jax.model.huggingface.families import FAMILIES
from asclepius_jax.model.huggingface.model_config import read_config
from asclepius_jax.model.huggingface.safetensors import INDEX, FolderError
from asclepius_jax.model.sizes import DecoderConfig
from tests.helpers.huggingface.config_variants import TRIED, Variant, config_of, mutated
from tests.helpers.huggingface.folder_variants import TOKENS, WEIGHTS, ours, theirs, write_config, write_weights
from tests.helpers.huggingface.made_families import VARIANTS

pytest.importorskip("torch")
pytest.importorskip("transformers")

MUTATIONS = 200  # of each model


def refusal_of(folder: Path) -> str:
    with pytest.raises(FolderError) as error:
        ours(folder)
    line = str(error.value)
    assert "\n" not in line
    return line


def check_equal(folder: Path) -> None:
    expected = theirs(folder)
    assert np.abs(expected).max() > 0.1
    assert np.abs(ours(folder) - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("variant", TRIED, ids=[f"{v.family}: {v.name}" for v in TRIED])
def test_a_config_is_accepted_with_equal_logits_or_refused(tmp_path: Path, variant: Variant):
    raw = config_of(variant)
    if variant.refusal is None:
        write_weights(tmp_path, raw)
        check_equal(tmp_path)
        return
    write_config(tmp_path, raw)
    with pytest.raises(FolderError) as error:
        read_config(tmp_path)
    line = str(error.value)
    assert line.startswith(f"{tmp_path / 'config.json'}: ")
    assert line.endswith(variant.refusal)
    assert "\n" not in line


# ---------------------------------------------------------------- files

Tensors = dict[str, np.ndarray]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def rewritten(folder: Path, change: Callable[[Tensors], None]) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def rounded(dtypes: list[type]) -> Callable[[Tensors], None]:
    """Tensors in these types, in turn."""

    def change(tensors: Tensors) -> None:
        for i, name in enumerate(sorted(tensors)):
            tensors[name] = tensors[name].astype(dtypes[i % len(dtypes)])

    return change


def with_head(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({HEAD: change(tensors[EMBEDDING])})


CHANGES: dict[str, tuple[str, Callable[[Tensors], None], str | None]] = {
    "bfloat16": ("gemma2", rounded([ml_dtypes.bfloat16]), None),
    "float16": ("phi3", rounded([np.float16]), None),
    "mixed types": ("olmo2", rounded([np.float32, ml_dtypes.bfloat16, np.float16]), None),
    "mixed types, xielu": ("apertus", rounded([ml_dtypes.bfloat16, np.float32]), None),
    "float64": ("llama", rounded([np.float64]), "is F64, not one of F32, F16, BF16: convert it to one of these"),
    "a tied head, stored": ("gemma3_text", with_head(np.copy), None),
    "a tied head, another": ("gemma2", with_head(lambda x: x + 1), "tie_word_embeddings is true, but lm_head.weight"),
    "a tied head, stored alone": ("smollm3", lambda t: t.update({HEAD: t.pop(EMBEDDING)}), None),
    "no head": ("llama", lambda t: t.__delitem__(HEAD), "1 missing: lm_head.weight"),
    "old frequencies": (
        "llama", lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}), None,
    ),
    "an unknown tensor": (
        "qwen3", lambda t: t.update({"model.sinks": np.ones(4, np.float32)}), "1 unknown: model.sinks",
    ),
    "a short fused tensor": (
        "phi3", lambda t: t.update({QKV: t[QKV][:-1]}),
        "1 misshapen: model.layers.0.self_attn.qkv_proj.weight (63, 32) for (64, 32)",
    ),
    "a bias that the class lacks": (
        "qwen2", lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": np.ones(32, np.float32)}),
        "1 unknown: model.layers.0.self_attn.o_proj.bias",
    ),
}  # fmt: skip
QKV = "model.layers.0.self_attn.qkv_proj.weight"


@pytest.mark.parametrize("name", CHANGES)
def test_tensors_are_read_as_transformers_reads_them_or_refused(tmp_path: Path, name: str):
    family, change, refusal = CHANGES[name]
    write_weights(tmp_path, config_of(Variant("", family, {})))
    rewritten(tmp_path, change)
    if refusal is None:
        check_equal(tmp_path)
    else:
        assert refusal in refusal_of(tmp_path)


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3_text"])
def test_shards_with_an_index_are_read(tmp_path: Path, family: str):
    write_weights(tmp_path, config_of(Variant("", family, {})), max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    check_equal(tmp_path)


def test_one_file_beside_the_shards_of_another_model_is_refused(tmp_path: Path):
    """transformers reads the one file."""
    raw = config_of(Variant("", "llama", {}))
    write_weights(tmp_path / "shards", raw, max_shard_size="20KB")
    write_weights(tmp_path, raw)
    for path in (tmp_path / "shards").glob("model*"):
        shutil.copy(path, tmp_path)
    assert f"contains model.safetensors and an {INDEX} of other files: remove the one" in refusal_of(tmp_path)


OTHERS = {
    "adapter_model.safetensors": "neither model.safetensors nor model.safetensors.index.json, but adapter_model",
    "model-00001-of-00002.safetensors": "but model-00001-of-00002.safetensors: download the folder again",
    "weights-Q4.gguf": "it holds a GGUF file, whose weights are quantised; import the folder that it was made from",
    "pytorch_model.bin": "pytorch_model.bin is a pickle, which can run code: if you trust it, convert it with",
    "adapter_config.json": "it holds adapters alone; merge them into their base with peft's merge_and_unload",
    "README.md": "download the folder again",
}


@pytest.mark.parametrize("with_config", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_without_weights_says_what_to_do(tmp_path: Path, name: str, with_config: bool):
    if with_config:
        write_config(tmp_path, config_of(Variant("", "llama", {})))
    (tmp_path / name).write_text("")
    told = refusal_of(tmp_path)
    expected = OTHERS[name] if with_config else OTHERS[name].removeprefix("neither model.safetensors nor ")
    assert expected.removeprefix("model.safetensors.index.json") in told


# ---------------------------------------------------------------- text and images


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_text_part_of_gemma_3_is_taken_as_its_refusal_says(tmp_path: Path, dtype: str):
    import torch
    import transformers

    text = {key: value for key, value in config_of(Variant("", "gemma3_text", {})).items() if key != "model_type"}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8, **sizes}
    tokens = {"image_token_index": 2, "boi_token_index": 1, "eoi_token_index": 0}  # not among those of the rows
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
    model = transformers.Gemma3ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "old")
    refusal = refusal_of(tmp_path / "old")
    assert "model_type is 'gemma3', a model of text and images: save its text part with transformers 5" in refusal
    line = refusal[refusal.index("Gemma3ForCausalLM.") : refusal.index(", copy its tokenizer")]
    names = {"Gemma3ForCausalLM": transformers.Gemma3ForCausalLM, "OLD": tmp_path / "old", "NEW": tmp_path / "new"}
    exec(line, names)
    assert json.loads((tmp_path / "new/config.json").read_text())["model_type"] == "gemma3_text"
    expected = theirs(tmp_path / "old")
    assert np.abs(ours(tmp_path / "new") - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


# ---------------------------------------------------------------- mutations


def accepted(folder: Path) -> DecoderConfig | None:
    try:
        return read_config(folder)
    except FolderError as error:
        line = str(error)
    assert "\n" not in line
    return None


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_config_with_one_other_key_is_refused_or_computes_the_same(tmp_path: Path, name: str):
    """A mutation that transformers fails to load or run shows nothing.

    Nor does one by which the rows are longer than the texts that are read.
    """
    family, changes = VARIANTS[name]
    base = config_of(Variant(name, family, changes))
    choice, known, told = random.Random(name), {}, Counter()
    for number in range(MUTATIONS):
        change, raw = mutated(base, choice)
        folder = tmp_path / str(number)
        write_config(folder, raw)
        config = accepted(folder)
        if config is None or config.context < TOKENS.shape[1]:
            told["refused"] += 1
            continue
        try:
            write_weights(folder, raw)
            expected = theirs(folder)
        except Exception:  # noqa: BLE001  # transformers raises what it happens to meet
            told["not loaded by transformers"] += 1
            continue
        key = config, (folder / WEIGHTS).read_bytes()
        if key not in known:
            known[key] = ours(folder, config)
        assert np.abs(known[key] - expected).max() <= 1e-4 * max(1, np.abs(expected).max()), change
        told["equal"] += 1
        shutil.rmtree(folder)
    assert min(told["refused"], told["equal"]) > MUTATIONS // 10


def test_every_family_has_variants():
    assert {variant.family for variant in TRIED if variant.refusal is None} == set(FAMILIES)
