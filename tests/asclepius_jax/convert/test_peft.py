"""`peft` reads our adapters and computes our logits; merged, they are base plus adapters; and they train as there."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asclepius_jax.checkpoint.adapters import adapted
from asclepius_jax.checkpoint.read import find_step
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
from asclepius_jax.convert.export_peft import HostAdapters, peft_tensors, read_adapters, write_peft
from asclepius_jax.convert.merge_adapters import merge, whole_reader
from asclepius_jax.convert.weights import Share
from asclepius_jax.distributed.sharding import batch_sharding, make_mesh
from asclepius_jax.generate.load import load_checkpoint
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import names as hf
from asclepius_jax.model.huggingface import safetensors
from asclepius_jax.model.lora import Adapters
from asclepius_jax.train.adapters import random_adapters
from asclepius_jax.train.batches import PackedRows
from asclepius_jax.train.loop import train
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.step import init_state, make_train_step, state_shardings
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import MODEL, packed_notes, transformers_model

transformers = pytest.importorskip("transformers")

ROW, BATCH, STEPS = 32, 8, 4
LORA = LoraConfig(rank=4, alpha=12.0)


@pytest.fixture(scope="module")
def start(small_tokenizer: Path, tmp_path_factory) -> Path:
    """A random model that transformers made and saved, with a tokenizer."""
    folder = tmp_path_factory.mktemp("start") / "hf"
    shutil.copytree(small_tokenizer, folder)
    transformers_model(folder, MODEL)
    return folder


@pytest.fixture(scope="module")
def tuned(start: Path, small_tokenizer: Path, tmp_path_factory) -> Path:
    """A run of four steps that trained adapters of every target on packed notes."""
    root = tmp_path_factory.mktemp("tuned")
    data = packed_notes(root, small_tokenizer, 120, ROW)
    epochs = (STEPS + 0.5) * BATCH / len(PackedRows(data, ROW))
    config = TrainConfig(
        run_dir=str(root / "run"),
        model=str(start),
        init=InitConfig(hf=str(start)),
        data=DataConfig(str(data), row_length=ROW, epochs=epochs),
        batch=BatchConfig(BATCH),
        mesh=MeshConfig(2, 2, 2),
        compute=ComputeConfig("float32", "none"),
        optimizer=OptimizerConfig(learning_rate=3e-2),
        log=LogConfig(tensorboard=False, progress=False),
        lora=LORA,
        few_steps=True,
    )
    return train(config)


@pytest.fixture(scope="module")
def folder(start: Path, tuned: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("peft")
    adapters = read_adapters(find_step(tuned)[1])
    assert adapters is not None
    assert write_peft(out, build(MODEL), adapters, str(start), "float32") == 2 * 7 * MODEL.num_layers
    return out


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(3, MODEL.vocab_size, (4, 40))


def our_logits(start: Path, tuned: Path, tokens: np.ndarray) -> np.ndarray:
    """Of the base with the adapters beside its matrices, float32."""
    model = adapted(build(MODEL), dataclasses.replace(LORA, base_dtype="float32"))
    one = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), model.shapes)
    params, host = hf.load_params(start, model, one), read_adapters(find_step(tuned)[1])
    assert host is not None
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    merged = model.merge(params, Adapters(model.lora, jax.tree.map(jnp.asarray, host.weights)))
    return np.asarray(merged(tokens, positions, np.ones_like(tokens), "float32"))


def their_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def from_folder(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


# ---------------------------------------------------------------- the folder


def test_peft_loads_the_folder_and_gives_our_logits(start: Path, tuned: Path, folder: Path, tokens: np.ndarray):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = from_folder(start)
    plain = their_logits(base, tokens)
    theirs = their_logits(peft.PeftModel.from_pretrained(base, folder).eval(), tokens)
    assert np.abs(our_logits(start, tuned, tokens) - theirs).max() < 1e-4
    assert np.abs(theirs - plain).max() > 0.1  # the adapters do something


def test_the_folder_has_every_tensor_that_peft_would_have_saved(start: Path, folder: Path, tmp_path: Path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    ours = json.loads((folder / "adapter_config.json").read_text())
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=ours["target_modules"], task_type="CAUSAL_LM")
    peft.get_peft_model(from_folder(start), config).save_pretrained(tmp_path)
    theirs = safetensors.open_safetensors(tmp_path / "adapter_model.safetensors")
    written = safetensors.open_safetensors(folder / "adapter_model.safetensors")
    assert {name: x.shape for name, x in written.items()} == {name: x.shape for name, x in theirs.items()}
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert ours["base_model_name_or_path"] == str(start)
    for name, value in ours.items():
        if name not in ("base_model_name_or_path", "target_modules"):
            assert saved[name] == value, name
    assert set(saved["target_modules"]) == set(ours["target_modules"])


def test_some_targets_make_some_tensors():
    model = adapted(build(MODEL), LoraConfig(rank=5, targets=("v", "down")))
    empty = jax.tree.map(lambda shape: np.zeros(shape.shape, np.float32), model.adapter_shapes)
    shapes = {name: array.shape for name, array in peft_tensors(HostAdapters(model.lora, empty), MODEL)}
    assert len(shapes) == 2 * 2 * MODEL.num_layers
    stem = "base_model.model.model.layers.1"
    assert shapes[f"{stem}.self_attn.v_proj.lora_A.weight"] == (5, 32)
    assert shapes[f"{stem}.self_attn.v_proj.lora_B.weight"] == (16, 5)
    assert shapes[f"{stem}.mlp.down_proj.lora_A.weight"] == (5, 64)
    assert shapes[f"{stem}.mlp.down_proj.lora_B.weight"] == (32, 5)


def test_bfloat16_tensors_are_the_nearest_ones(start: Path, tuned: Path, tmp_path: Path):
    adapters = read_adapters(find_step(tuned)[1])
    assert adapters is not None
    write_peft(tmp_path, build(MODEL), adapters, str(start), "bfloat16")
    written = safetensors.open_safetensors(tmp_path / "adapter_model.safetensors")
    for name, value in peft_tensors(adapters, MODEL):
        np.testing.assert_array_equal(written[name], value.astype(written[name].dtype), err_msg=name)
        assert written[name].dtype.itemsize == 2


# ---------------------------------------------------------------- merged


def test_the_merged_folder_is_base_plus_adapters(start: Path, tuned: Path, folder: Path, tmp_path: Path):
    """In Hugging Face's own layout, computed anew from the two folders in float64."""
    run_export(ExportConfig(tuned, tmp_path / "merged", "float32"))
    before, after = safetensors.open_folder(start), hf.open_folder(tmp_path / "merged")
    parts = safetensors.open_safetensors(folder / "adapter_model.safetensors")
    changed = 0
    for name, value in before.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" not in parts:
            np.testing.assert_array_equal(after[name], value, err_msg=name)
            continue
        a, b = (parts[f"{stem}.lora_{part}.weight"].astype(np.float64) for part in "AB")
        np.testing.assert_allclose(after[name], value + 12 / 4 * b @ a, atol=1e-6, err_msg=name)
        assert np.abs(after[name] - value).max() > 1e-2, name
        changed += 1
    assert changed == 7 * MODEL.num_layers


def test_the_merged_folder_gives_the_logits_of_base_and_adapters(
    start: Path, tuned: Path, tmp_path: Path, tokens: np.ndarray
):
    run_export(ExportConfig(tuned, tmp_path / "merged", "float32"))
    theirs = their_logits(from_folder(tmp_path / "merged"), tokens)
    assert np.abs(our_logits(start, tuned, tokens) - theirs).max() < 1e-4


def test_a_layer_at_a_time_is_all_layers_at_once(tuned: Path):
    step = find_step(tuned)[1]
    adapters = read_adapters(step)
    assert adapters is not None
    base = np.random.default_rng(0).normal(size=(32, 4, 8)).astype(np.float32)
    a, b = adapters.weights["o"]["A"][1], adapters.weights["o"]["B"][1]
    expected = base + 3.0 * np.einsum("NHR,RD->DNH", a, b)
    np.testing.assert_allclose(merge("blocks.attention.o_DNH", 1, base, adapters), expected, atol=1e-6)
    assert merge("attention_norm.scale", 0, base, adapters) is base


def test_what_generates_is_what_is_exported(tuned: Path):
    _, params, _ = load_checkpoint(tuned, MeshConfig(2, 2, 2))
    read = whole_reader(find_step(tuned)[1])
    for name, value in hf.flatten(params).items():
        stacked = name.startswith("blocks.")
        whole = (slice(0, None),) * value.ndim
        host = np.stack([read(name, layer) for layer in range(2)]) if stacked else read(name, whole)
        np.testing.assert_allclose(value, host, atol=1e-6, err_msg=name)


def test_what_is_exported_as_adapters_is_what_peft_needs(tuned: Path, start: Path, tmp_path: Path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    run_export(ExportConfig(tuned, tmp_path / "adapters", "float32", adapters=True))
    names = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md", "manifest.json"} <= names
    assert (
        "| Adapters | rank 4, alpha 12, dropout 0, of q k v o gate up down |"
        in (tmp_path / "adapters/README.md").read_text()
    )
    theirs = peft.PeftModel.from_pretrained(from_folder(start), tmp_path / "adapters").eval()
    tokens = np.random.default_rng(1).integers(3, MODEL.vocab_size, (2, 24))
    assert np.abs(our_logits(start, tuned, tokens) - their_logits(theirs, tokens)).max() < 1e-4


def test_a_merged_folder_is_verified_like_any_other(tuned: Path, tmp_path: Path, capsys):
    run_export(ExportConfig(tuned, tmp_path / "merged", "bfloat16", verify=True))
    assert "all tensors match the checkpoint; max |delta|" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"merged"}  # what was merged for the time is gone


def test_adapters_are_never_merged_into_other_weights(tuned: Path, start: Path, tmp_path: Path):
    shutil.copytree(start, tmp_path / "kept")
    try:
        transformers_model(start, MODEL, noise=0.2)
        with pytest.raises(
            UserError, match=r"not the base that the adapters were trained on, .* differs: restore the original weights"
        ):
            run_export(ExportConfig(tuned, tmp_path / "merged"))
    finally:
        shutil.copytree(tmp_path / "kept", start, dirs_exist_ok=True)
    assert not (tmp_path / "merged").exists()
    for flags, told in (
        ({"adapters": True, "verify": True}, "--verify and --push need a complete model"),
        ({"share": Share(0, 2)}, "only a single process can merge adapters into their base"),
    ):
        with pytest.raises(UserError, match=told):
            run_export(ExportConfig(tuned, tmp_path / "merged", **flags))


# ---------------------------------------------------------------- training


def test_adapters_train_as_in_peft(start: Path, tmp_path: Path):
    """Three AdamW steps on the same tokens from the same adapters; A and B afterwards, and the losses."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    settings = OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.0, weight_decay=0.1, epsilon=1e-3)
    lora = dataclasses.replace(LORA, base_dtype="float32")
    config = TrainConfig(
        batch=BatchConfig(BATCH, 2), compute=ComputeConfig("float32", "full"), optimizer=settings, lora=lora
    )
    model, mesh = adapted(build(MODEL), lora), make_mesh(MeshConfig(2, 2, 2))
    optimizer = make_optimizer(settings, 3)
    shardings = state_shardings(mesh, model, optimizer)
    adapters = random_adapters(model, 0, shardings["adapters"])
    state = init_state(hf.load_params(start, model, shardings["params"]), optimizer, shardings, adapters)
    theirs = peft_model(peft, start, state["adapters"], tmp_path)
    step = make_train_step(config, model, 3, shardings, mesh, Kernel())
    torch = pytest.importorskip("torch")
    trained = [p for p in theirs.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=1e-2, betas=(0.9, 0.999), eps=1e-3, weight_decay=0.1)
    schedule = transformers.get_cosine_schedule_with_warmup(adamw, 0, 3)
    random = np.random.default_rng(0)
    for _ in range(3):
        tokens = random.integers(3, MODEL.vocab_size, (BATCH, ROW + 1))
        state, numbers = step(state, jax.device_put(batch_of(tokens), batch_sharding(mesh)))
        loss = torch.nn.functional.cross_entropy(
            theirs(torch.tensor(tokens[:, :-1])).logits.reshape(-1, MODEL.vocab_size),
            torch.tensor(tokens[:, 1:]).reshape(-1),
        )
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm))
        adamw.step()
        adamw.zero_grad()
        schedule.step()
        assert float(numbers["loss"]) == pytest.approx(loss.item(), rel=1e-5)
        assert float(numbers["grad_norm"]) == pytest.approx(norm, rel=1e-4)
    expected = {name: p.detach().numpy() for name, p in theirs.named_parameters() if p.requires_grad}
    for name, value in peft_tensors(host(model.lora, state["adapters"]), MODEL):
        np.testing.assert_allclose(value, expected[name.replace(".weight", ".default.weight")], atol=2e-5, err_msg=name)
    assert max(np.abs(x).max() for name, x in expected.items() if "lora_B" in name) > 1e-2  # it was zero


def host(lora: Any, adapters: Any) -> Any:
    return HostAdapters(lora, jax.device_get(adapters))


def peft_model(peft: Any, start: Path, adapters: Any, folder: Path) -> Any:
    """peft's model with our first adapters, ready to train."""
    lora = adapted(build(MODEL), LORA).lora
    write_peft(folder, build(MODEL), host(lora, adapters), str(start), "float32")
    return peft.PeftModel.from_pretrained(from_folder(start), folder, is_trainable=True).train()


def batch_of(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of one document each, every token with a successor."""
    inputs, targets = tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)
    positions = np.broadcast_to(np.arange(inputs.shape[1], dtype=np.int32), inputs.shape)
    ones = np.ones_like(inputs)
    return {
        "tokens": inputs, "targets": targets, "positions": positions, "segment_ids": ones,
        "loss_mask": ones.astype(np.float32),
    }  # fmt: skip


def test_the_first_adapters_are_drawn_as_peft_draws_them(start: Path):
    """A uniform within 1 / sqrt(inputs), B zero: of the same spread in every target."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    wide = LoraConfig(rank=64)
    model = adapted(build(MODEL), wide)
    one = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), model.adapter_shapes)
    ours = dict(peft_tensors(host(model.lora, random_adapters(model, 0, one)), MODEL))
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    theirs = peft.get_peft_model(from_folder(start), peft.LoraConfig(r=64, target_modules=modules))
    for name, p in theirs.named_parameters():
        if p.requires_grad:
            mine = ours[name.replace(".default", "")]
            assert mine.std() == pytest.approx(float(p.detach().numpy().std()), rel=0.06, abs=0), name
            assert np.abs(mine).max() <= mine.shape[1] ** -0.5 or "lora_B" in name
