"""A real pretrained model on real notes: SmolLM2-135M in, trained, and out, with transformers' logits on both ends."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from asclepius_jax.config import (
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
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.generate.batch import generate
from asclepius_jax.generate.load import load_checkpoint
from asclepius_jax.generate.sampling import Sampling
from asclepius_jax.model.huggingface.safetensors import open_folder
from asclepius_jax.train.loop import train
from data_prep.pack import run as pack
from tests.helpers.huggingface.smollm2 import smollm2_folder
from tests.helpers.made_inputs import note, write_records
from tests.helpers.places import shared

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH = 256
MESH = MeshConfig(data=2, fsdp=2)


@pytest.fixture(scope="module")
def four_devices():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: jax.local_devices()[:4])
        yield


@pytest.fixture(scope="module")
def folder() -> Path:
    return smollm2_folder()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Real notes, each longer than the rows here."""
    lines = shared("data/mtsamples.jsonl").read_text(encoding="utf-8").splitlines()
    return [text for line in lines if len(text := json.loads(line)["text"]) > 1500][:12]


@pytest.fixture(scope="module")
def imported(folder: Path, four_devices, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "imported"
    run_import(ImportConfig(folder, out))
    return out


def transformers_model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def check_logits(checkpoint: Path, theirs: Any, texts: list[str]) -> None:
    model, params, tokenizer = load_checkpoint(checkpoint, MESH)
    tokens = np.array([ids[:LENGTH] for ids in tokenizer.encode_batch(texts)])
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    call = jax.jit(lambda p, t, i: model.merge(p)(t, i, np.ones_like(tokens), dtype="float32"))
    ours = np.asarray(call(params, tokens, positions))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    assert np.abs(expected).max() > 10  # a real model's logits, of which 2e-3 is little
    assert np.abs(ours - expected).max() <= 2e-3
    assert (ours.argmax(-1) == expected.argmax(-1)).mean() >= 0.999


def check_answers(checkpoint: Path, theirs: Any, texts: list[str], new_tokens: int = 64) -> None:
    """On one device: with four of them in one processor, gathering the parameters for each token takes a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
        model, params, tokenizer = load_checkpoint(checkpoint, MeshConfig())
    ids = tokenizer.encode_batch(texts)
    prompts = [ids[0][:40], ids[1][:60]]
    never = model.config.vocab_size  # an EOS that no token is
    ours = generate(model, params, prompts, never, Sampling(new_tokens), "float32")
    settings = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for prompt, answer in zip(prompts, ours, strict=True):
        assert answer == theirs.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist()
        assert len(set(answer)) > 4


def test_imported_it_computes_what_transformers_does(folder: Path, imported: Path, texts: list[str]):
    theirs = transformers_model(folder)
    check_logits(imported, theirs, texts[:1])


@pytest.mark.slow
def test_it_writes_what_transformers_writes(folder: Path, imported: Path, texts: list[str]):
    check_answers(imported, transformers_model(folder), texts[4:6])


def test_its_tokenizer_gives_the_ids_of_transformers(folder: Path, imported: Path, texts: list[str], four_devices):
    from data_prep.contract.tokenizer import load_tokenizer

    automatic = transformers.AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    written = [*texts, "  two spaces", "a\n\n\tb", "<|im_start|> in a note <|endoftext|>"]
    assert load_tokenizer(folder).encode_batch(written) == automatic(written, add_special_tokens=False)["input_ids"]


def trained(folder: Path, imported: Path, texts: list[str], root: Path, **changes: Any) -> Path:
    """Three steps on packed notes; returns the run folder."""
    write_records(root / "notes", [note(f"n{i}", text) for i, text in enumerate(texts)])
    pack.run(pack.PackConfig(root / "notes", root / "packed", folder, LENGTH, workers=1))
    rows = json.loads((root / "packed/manifest.json").read_text())["rows"]
    config = TrainConfig(
        run_dir=str(root / "run"),
        model=str(folder),
        init=InitConfig(checkpoint=str(imported)),
        data=DataConfig(str(root / "packed"), row_length=LENGTH, epochs=3.5 * 4 / rows),
        batch=BatchConfig(4),
        mesh=MESH,
        compute=ComputeConfig("float32", "full"),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_fraction=0.0),
        log=LogConfig(every_steps=1, tensorboard=False, progress=False),
        few_steps=True,
    )
    run_dir = train(dataclasses.replace(config, **changes))
    losses = [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    assert all(1.0 < loss < 4.0 for loss in losses)  # a pretrained model on English notes, from its first step on
    return run_dir


@pytest.mark.slow
def test_trained_and_exported_it_is_still_the_same_model(
    folder: Path, imported: Path, texts: list[str], four_devices, tmp_path: Path
):
    run_dir = trained(folder, imported, texts, tmp_path)
    run_export(ExportConfig(run_dir, tmp_path / "exported", "float32"))
    before, after = open_folder(folder), open_folder(tmp_path / "exported")
    moved = [name for name in after if not np.array_equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(after)
    theirs = transformers_model(tmp_path / "exported")
    check_logits(run_dir, theirs, texts[:4])
    check_answers(run_dir, theirs, texts[4:6])


@pytest.mark.slow
def test_its_adapters_are_the_same_in_peft_and_merged(
    folder: Path, imported: Path, texts: list[str], four_devices, tmp_path: Path, capsys
):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_fraction=0.0)
    lora = LoraConfig(rank=8, base_dtype="float32")
    run_dir = trained(folder, imported, texts, tmp_path, lora=lora, optimizer=optimizer)
    with capsys.disabled():
        print("\n" + next(line for line in capsys.readouterr().out.splitlines() if "optimizer state" in line))
    run_export(ExportConfig(run_dir, tmp_path / "adapters", "float32", adapters=True))
    run_export(ExportConfig(run_dir, tmp_path / "merged", "float32", verify=True))
    base = transformers_model(folder)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        plain = base(ids).logits
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapters").eval()
        assert (theirs(ids).logits - plain).abs().max() > 0.1  # three steps moved it
    check_logits(run_dir, theirs, texts[:4])
    check_logits(run_dir, transformers_model(tmp_path / "merged"), texts[:4])
    before, after = open_folder(folder), open_folder(tmp_path / "merged")
    for name, module in theirs.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            update = module.get_delta_weight("default").detach().numpy()
            expected = np.asarray(before[f"{name}.weight"], np.float32) + update
            np.testing.assert_allclose(after[f"{name}.weight"], expected, atol=1e-6, err_msg=name)
