"""The full circle for a small model of each family: in from transformers, some training, and out to transformers."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from asclepius_jax.config import (
    LORA_TARGETS,
    BatchConfig,
    ComputeConfig,
    DataConfig,
    InitConfig,
    LogConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from asclepius_jax.convert import verify
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.generate.batch import generate
from asclepius_jax.generate.load import load_checkpoint
from asclepius_jax.generate.sampling import Sampling
from asclepius_jax.model.huggingface.names import read_config
from asclepius_jax.model.huggingface.safetensors import open_folder
from asclepius_jax.model.sizes import DecoderConfig
from asclepius_jax.train.loop import train
from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer import JsonTokenizer
from tests.helpers.huggingface.family_tokenizers import make_family
from tests.helpers.huggingface.made_families import VARIANTS, made_family
from tests.helpers.made_inputs import packed_notes, transformers_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH = 64
SMALL = DecoderConfig(320, 64, 160, 3, 8, 8, head_dim=8, max_length=128)
# Two by default, with most of what there is: windows in a pattern with a rest, norms everywhere, fused matrices.
QUICK = {"gemma3", "phi4-mini"}


def largest_difference(checkpoint: Path, folder: Path, vocabulary: int = 320) -> float:
    """Between the logits of our model and of transformers', on random tokens."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model, params, _ = load_checkpoint(checkpoint, MeshConfig(2, 2, 2))
    tokens = np.random.default_rng(1).integers(3, vocabulary, (8, LENGTH))
    positions = np.broadcast_to(np.arange(LENGTH), tokens.shape)
    call: Any = jax.jit(lambda p, t, i: model.merge(p)(t, i, np.ones_like(tokens), dtype="float32"))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    assert np.abs(expected).max() > 0.1
    return float(np.abs(np.asarray(call(params, tokens, positions)) - expected).max())


def trained(start: Path, imported: Path, data: Path, run_dir: Path, lora: LoraConfig, steps: int = 3) -> Path:
    rows = json.loads((data / "manifest.json").read_text())["rows"]
    return train(
        TrainConfig(
            run_dir=str(run_dir),
            model=str(start),
            init=InitConfig(checkpoint=str(imported)),
            data=DataConfig(str(data), row_length=LENGTH, epochs=(steps + 0.5) * 8 / rows),
            batch=BatchConfig(8),
            mesh=MeshConfig(2, 2, 2),
            compute=ComputeConfig("float32", "none"),
            optimizer=OptimizerConfig(learning_rate=1e-2),
            log=LogConfig(tensorboard=False, progress=False),
            lora=lora,
            few_steps=True,
        )
    )


@pytest.fixture
def start(small_tokenizer: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "start"
    folder.mkdir()
    if request.param.startswith("qwen"):  # of Qwen2, transformers replaces how a tokenizer cuts texts by Qwen's own way
        make_family("Qwen", folder)
    else:
        JsonTokenizer(small_tokenizer).save(folder)
    # A few rows more than there are tokens, and a number that no axis divides.
    tokenizer = JsonTokenizer(folder)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": None}
    made_family(folder, request.param, vocab_size=tokenizer.vocab_size + 3, **ids)
    return folder


def each_family(quick: set[str]) -> pytest.MarkDecorator:
    marked = [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in VARIANTS]
    return pytest.mark.parametrize("start", marked, indirect=True)


@each_family(QUICK)
def test_the_circle_closes(start: Path, tmp_path: Path, capsys):
    run_import(ImportConfig(start, tmp_path / "imported"))
    assert largest_difference(tmp_path / "imported", start) <= 1e-4
    data = packed_notes(tmp_path, start, 200, LENGTH)
    run_dir = trained(start, tmp_path / "imported", data, tmp_path / "run", LoraConfig())
    capsys.readouterr()
    run_export(ExportConfig(run_dir, tmp_path / "out", "float32", verify=True))
    assert "to transformers is" in capsys.readouterr().out
    assert largest_difference(run_dir, tmp_path / "out") <= 1e-4
    before, after = open_folder(start), open_folder(tmp_path / "out")
    constants = ("act_fn.beta", "act_fn.eps")
    same = [name for name in after if np.array_equal(before[name], after[name]) and not name.endswith(constants)]
    assert not same
    # And in again: the same parameters, bit for bit.
    run_import(ImportConfig(tmp_path / "out", tmp_path / "again"))
    run_export(ExportConfig(tmp_path / "again", tmp_path / "out2", "float32"))
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()
    first, last = (json.loads((folder / "config.json").read_text()) for folder in (start, tmp_path / "out"))
    for key in ("architectures", "model_type", "max_position_embeddings", "vocab_size"):
        assert last[key] == first[key]


@each_family(set())
def test_a_folder_leaves_as_it_came(start: Path, tmp_path: Path):
    run_import(ImportConfig(start, tmp_path / "imported"))
    run_export(ExportConfig(tmp_path / "imported", tmp_path / "out", "float32", verify=True))
    before, after = open_folder(start), open_folder(tmp_path / "out")
    assert before.keys() - {"lm_head.weight"} == after.keys() - {"lm_head.weight"}
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[name], err_msg=name)


def each_kind_of_adapters(quick: dict[str, str]) -> pytest.MarkDecorator:
    """Every family with every kind, of which a few are no slow tests."""
    kinds = {"lora": {}, "rslora": {"rank_stabilized": True}, "dora": {"magnitudes": True, "rank_stabilized": True}}
    marked = [
        pytest.param(name, values, marks=[] if quick.get(name) == kind else pytest.mark.slow, id=f"{name}-{kind}")
        for name in VARIANTS
        for kind, values in kinds.items()
    ]
    return pytest.mark.parametrize(("start", "values"), marked, indirect=["start"])


@each_kind_of_adapters({"phi4-mini": "dora"})  # its fused matrices make one module of peft of several targets
def test_adapters_load_in_peft_and_give_our_logits(start: Path, values: dict[str, bool], tmp_path: Path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    run_import(ImportConfig(start, tmp_path / "imported"))
    data = packed_notes(tmp_path, start, 200, LENGTH)
    gated = read_config(start).gated
    lora = LoraConfig(4, 12.0, tuple(name for name in LORA_TARGETS if gated or name != "gate"), **values)
    run_dir = trained(start, tmp_path / "imported", data, tmp_path / "run", lora)
    run_export(ExportConfig(run_dir, tmp_path / "adapters", "float32", adapters=True))
    base = transformers.AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).eval()
    tokens = np.random.default_rng(1).integers(3, 320, (8, LENGTH))
    with torch.no_grad():
        plain = base(torch.tensor(tokens)).logits.numpy()
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapters").eval()(torch.tensor(tokens)).logits.numpy()
    model, params, _ = load_checkpoint(run_dir, MeshConfig(2, 2, 2))
    positions = np.broadcast_to(np.arange(LENGTH), tokens.shape)
    call: Any = jax.jit(lambda p, t, i: model.merge(p)(t, i, np.ones_like(tokens), dtype="float32"))
    assert np.abs(np.asarray(call(params, tokens, positions)) - theirs).max() <= 1e-4
    assert np.abs(theirs - plain).max() > 0.01  # the adapters do something


@pytest.mark.parametrize("start", ["phi4-mini"], indirect=True)
def test_magnitudes_of_a_part_of_a_fused_matrix_are_not_exported_alone(start: Path, tmp_path: Path):
    run_import(ImportConfig(start, tmp_path / "imported"))
    data = packed_notes(tmp_path, start, 200, LENGTH)
    lora = LoraConfig(4, 12.0, ("q", "o"), magnitudes=True)
    run_dir = trained(start, tmp_path / "imported", data, tmp_path / "run", lora)
    told = r"self_attn.qkv_proj of phi3 models is q, k, v, of which only q have magnitudes.*: export without --adapters"
    with pytest.raises(UserError, match=told):
        run_export(ExportConfig(run_dir, tmp_path / "adapters", "float32", adapters=True))
    assert not (tmp_path / "adapters").exists()
    run_export(ExportConfig(run_dir, tmp_path / "merged", "float32"))
    assert largest_difference(run_dir, tmp_path / "merged") <= 1e-4


@each_family(set())
def test_it_writes_what_transformers_writes(start: Path, tmp_path: Path):
    """Greedily, beyond a window, with prompts of several lengths."""
    run_import(ImportConfig(start, tmp_path / "imported"))
    model, params, _ = load_checkpoint(tmp_path / "imported", MeshConfig(2, 2, 2))
    prompts = [np.random.default_rng(n).integers(3, 320, n).tolist() for n in (5, 17, 30)]
    end = model.config.vocab_size - 1  # of which no tokenizer made these weights likely
    ours = generate(model, params, prompts, [end], Sampling(max_new_tokens=30), "float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).eval()
    for prompt, found in zip(prompts, ours, strict=True):
        settings = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": end, "pad_token_id": 0}
        written = theirs.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist()
        assert found == written[: written.index(end) if end in written else None]


def test_the_bound_is_below_what_a_mistake_makes(small_tokenizer: Path, tmp_path: Path):
    """Rotary pairs interleaved instead of half-split, the classic mistake, are far beyond it."""
    transformers_model(tmp_path / "start", SMALL)
    JsonTokenizer(small_tokenizer).save(tmp_path / "start")
    run_import(ImportConfig(tmp_path / "start", tmp_path / "imported"))
    from safetensors.numpy import load_file, save_file

    tensors = load_file(tmp_path / "start/model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].reshape(8, 2, 4, 64).swapaxes(1, 2).reshape(64, 64))
    save_file(tensors, tmp_path / "start/model.safetensors", metadata={"format": "pt"})
    assert largest_difference(tmp_path / "imported", tmp_path / "start") > 10 * verify.LEAST_BOUND
