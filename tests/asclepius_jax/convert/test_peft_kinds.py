"""Adapters with magnitudes (DoRA) and rank-stabilized ones (rsLoRA) train, export and merge as in peft."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asclepius_jax.checkpoint.adapters import adapted, lora_from, num_adapter_params
from asclepius_jax.checkpoint.read import find_step
from asclepius_jax.config import (
    BatchConfig,
    CheckpointConfig,
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
from asclepius_jax.cost_model.memory import adapters_of_device
from asclepius_jax.generate.load import load_checkpoint
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.collectives import Parallel
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import names as hf
from asclepius_jax.model.huggingface import safetensors
from asclepius_jax.model.lora import Adapters, Lora, Noise, drop
from asclepius_jax.train.adapters import random_adapters
from asclepius_jax.train.batches import PackedRows
from asclepius_jax.train.loop import train
from asclepius_jax.train.optimizer import decayed
from asclepius_jax.train.step import make_loss
from tests.helpers.made_inputs import MODEL, packed_notes, transformers_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="peft is not installed")

ROW, BATCH, STEPS = 32, 8, 4
KINDS = {
    "rslora": LoraConfig(rank=4, alpha=6.0, rank_stabilized=True),
    "dora": LoraConfig(rank=4, alpha=12.0, dropout=0.1, magnitudes=True),
}
DORA = dataclasses.replace(KINDS["dora"], base_dtype="float32")


@pytest.fixture(scope="module")
def start(small_tokenizer: Path, tmp_path_factory) -> Path:
    """A random model that transformers made and saved, with a tokenizer."""
    folder = tmp_path_factory.mktemp("start") / "hf"
    shutil.copytree(small_tokenizer, folder)
    transformers_model(folder, MODEL)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def config(request: Any, start: Path, small_tokenizer: Path, tmp_path_factory) -> TrainConfig:
    """A finished run of four steps on eight devices."""
    root = tmp_path_factory.mktemp(request.param)
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
        checkpoint=CheckpointConfig(every_steps=2),
        log=LogConfig(tensorboard=False, progress=False),
        lora=dataclasses.replace(KINDS[request.param], base_dtype="float32"),
        few_steps=True,
    )
    train(config)
    return config


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(3, MODEL.vocab_size, (4, 40))


def host_adapters(config: TrainConfig) -> HostAdapters:
    adapters = read_adapters(find_step(Path(config.run_dir))[1])
    assert adapters is not None
    return adapters


def our_logits(params: Any, tokens: np.ndarray, lora: Lora = Lora(), weights: Any = None) -> np.ndarray:  # noqa: B008
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    model = build(MODEL).merge(params, Adapters(lora, jax.tree.map(jnp.asarray, weights or {})))
    return np.asarray(model(tokens, positions, np.ones_like(tokens), "float32"))


def base_params(start: Path) -> Any:
    one = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), build(MODEL).shapes)
    return hf.load_params(start, build(MODEL), one)


def their_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)).logits.numpy()


def from_folder(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")


def test_peft_loads_the_exported_adapters_and_gives_our_logits(
    config: TrainConfig, start: Path, tokens: np.ndarray, tmp_path: Path
):
    run_export(ExportConfig(Path(config.run_dir), tmp_path / "adapters", "float32", adapters=True))
    adapters, base = host_adapters(config), from_folder(start)
    plain = their_logits(base, tokens)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapters")
    assert loaded.peft_config["default"].use_dora == config.lora.magnitudes
    assert loaded.peft_config["default"].use_rslora == config.lora.rank_stabilized
    theirs = their_logits(loaded, tokens)
    params = base_params(start)
    ours = our_logits(params, tokens, adapters.lora, adapters.weights)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
    assert np.abs(theirs - plain).max() > 0.1  # the adapters do something
    if config.lora.magnitudes:
        first = random_adapters(adapted(build(MODEL), config.lora), 0, one_device(config.lora), params)
        for name, parts in adapters.weights.items():
            assert np.abs(parts["magnitude"] - first[name]["magnitude"]).max() > 1e-2, name


def one_device(lora: LoraConfig) -> Any:
    shapes = adapted(build(MODEL), lora).adapter_shapes
    return jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)


def test_the_merged_folder_and_what_generates_are_what_peft_merges(
    config: TrainConfig, start: Path, tokens: np.ndarray, tmp_path: Path
):
    run_export(ExportConfig(Path(config.run_dir), tmp_path / "adapters", "float32", adapters=True))
    run_export(ExportConfig(Path(config.run_dir), tmp_path / "merged", "float32"))
    merged = peft.PeftModel.from_pretrained(from_folder(start), tmp_path / "adapters").merge_and_unload()
    theirs = their_logits(merged, tokens)
    assert np.abs(their_logits(from_folder(tmp_path / "merged"), tokens) - theirs).max() < 1e-5 * np.abs(theirs).max()
    _, params, _ = load_checkpoint(config.run_dir, MeshConfig(2, 2, 2))
    assert np.abs(our_logits(params, tokens) - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_the_folder_has_every_tensor_that_peft_would_have_saved(config: TrainConfig, start: Path, tmp_path: Path):
    adapters = host_adapters(config)
    write_peft(tmp_path, build(MODEL), adapters, str(start), "bfloat16")
    settings = {
        "r": 4,
        "target_modules": json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"],
        "use_dora": config.lora.magnitudes,
        "use_rslora": config.lora.rank_stabilized,
    }
    peft.get_peft_model(from_folder(start), peft.LoraConfig(**settings)).save_pretrained(tmp_path / "theirs")
    theirs = safetensors.open_safetensors(tmp_path / "theirs/adapter_model.safetensors")
    written = safetensors.open_safetensors(tmp_path / "adapter_model.safetensors")
    assert {name: x.shape for name, x in written.items()} == {name: x.shape for name, x in theirs.items()}
    for name, value in peft_tensors(adapters, MODEL):
        assert written[name].dtype.itemsize == (4 if "magnitude" in name else 2)
        np.testing.assert_array_equal(written[name], value.astype(written[name].dtype), err_msg=name)


def test_a_resumed_run_ends_in_the_adapters_of_an_unbroken_one(config: TrainConfig, tmp_path: Path):
    shutil.copytree(config.run_dir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    train(dataclasses.replace(config, run_dir=str(tmp_path / "run")))
    resumed = host_adapters(dataclasses.replace(config, run_dir=str(tmp_path / "run")))
    jax.tree.map(np.testing.assert_array_equal, resumed.weights, host_adapters(config).weights)


def test_the_first_adapters_change_nothing_and_have_the_magnitudes_of_peft(start: Path, tokens: np.ndarray):
    params, model = base_params(start), adapted(build(MODEL), DORA)
    first = random_adapters(model, 0, one_device(DORA), params)
    plain = our_logits(params, tokens)
    np.testing.assert_allclose(our_logits(params, tokens, model.lora, first), plain, atol=1e-5 * np.abs(plain).max())
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    theirs = peft.get_peft_model(from_folder(start), peft.LoraConfig(r=4, target_modules=modules, use_dora=True))
    expected = {name: p.detach().numpy() for name, p in theirs.named_parameters() if "magnitude" in name}
    ours = dict(peft_tensors(HostAdapters(model.lora, jax.device_get(first)), MODEL))
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name.removesuffix(".default.weight")], value, rtol=1e-6, err_msg=name)
    assert len(expected) == 7 * MODEL.num_layers


def test_magnitudes_have_no_weight_decay():
    shapes = adapted(build(MODEL), DORA).adapter_shapes
    assert decayed(shapes)["q"] == {"A": True, "B": True, "magnitude": False}


def test_the_memory_and_the_number_of_trained_parameters_count_magnitudes():
    D, N, K, H, F, L = 32, 4, 2, 8, 64, 2
    plain = dataclasses.replace(DORA, magnitudes=False)
    outputs = L * (N * H + 2 * K * H + 2 * F + 2 * D)
    assert num_adapter_params(MODEL, DORA) == num_adapter_params(MODEL, plain) + outputs
    mesh = {"data": 1, "fsdp": 2, "tensor": 2, "context": 1}
    held = [adapters_of_device(MODEL, lora_from(lora), mesh) for lora in (DORA, plain)]
    assert held[0] - held[1] == outputs / 2  # heads and columns over tensor, the width over fsdp


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_peft(kind: str, start: Path, tmp_path: Path):
    """Of A, B and the magnitudes, where B is not zero; peft treats the norm as a constant too."""
    lora = dataclasses.replace(KINDS[kind], dropout=0.0, base_dtype="float32")
    model, random = adapted(build(MODEL), lora), np.random.default_rng(0)
    params = base_params(start)
    first = jax.device_get(random_adapters(model, 0, one_device(lora), params))
    adapters = jax.tree.map(lambda x: (x + random.normal(0, 0.1, x.shape)).astype(np.float32), first)
    write_peft(tmp_path, build(MODEL), HostAdapters(model.lora, adapters), str(start), "float32")
    theirs = peft.PeftModel.from_pretrained(from_folder(start), tmp_path, is_trainable=True).train()
    tokens = random.integers(3, MODEL.vocab_size, (4, ROW + 1)).astype(np.int32)
    positions = np.broadcast_to(np.arange(ROW, dtype=np.int32), (4, ROW))
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "positions": positions}
    batch["segment_ids"] = np.ones_like(positions)
    weights_BT = np.full((4, ROW), 1 / (4 * ROW), np.float32)
    config = TrainConfig(compute=ComputeConfig("float32", "full"), lora=lora)
    loss = make_loss(config, model, Kernel(), Parallel())
    grads = jax.jit(
        jax.grad(lambda adapters: loss({"params": params, "adapters": adapters}, batch, jnp.asarray(weights_BT))[0])
    )(jax.tree.map(jnp.asarray, adapters))
    logits = theirs(torch.tensor(tokens[:, :-1], dtype=torch.long)).logits.reshape(-1, MODEL.vocab_size)
    torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[:, 1:], dtype=torch.long).reshape(-1)).backward()
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.requires_grad}
    ours = dict(peft_tensors(HostAdapters(model.lora, jax.device_get(grads)), MODEL))
    assert len(ours) == len(expected) == (3 if lora.magnitudes else 2) * 7 * MODEL.num_layers
    for name, value in ours.items():
        stem = name.removesuffix(".weight")
        found = expected[f"{stem}.default.weight"]
        np.testing.assert_allclose(value, found, atol=1e-4 * np.abs(found).max(), rtol=0, err_msg=name)


def test_dropout_leaves_the_frozen_product_alone():
    """As in peft's layer, given the inputs that our dropout leaves: of y, only what these give is rescaled."""
    from peft.tuners.lora.dora import DoraLinearLayer

    random = np.random.default_rng(0)
    x, w, a, b = (random.normal(size=shape).astype(np.float32) for shape in ((2, 5, 6), (6, 8), (6, 3), (3, 8)))
    m = random.uniform(0.5, 2, 8).astype(np.float32)
    noise = Noise(jax.random.key(0), jnp.arange(10, dtype=jnp.uint32).reshape(2, 5))
    lora = Lora(3, 6.0, ("gate",), 0.4, magnitudes=True)
    adapters = Adapters(lora, {"gate": {"A": jnp.asarray(a), "B": jnp.asarray(b), "magnitude": jnp.asarray(m)}}, noise)
    ours = adapters.project("gate", "BTD,DF->BTF", jnp.asarray(x), jnp.asarray(w), Parallel())
    base, first, second = (torch.nn.Linear(*array.shape, bias=False) for array in (w, a, b))
    layer = DoraLinearLayer(fan_in_fan_out=False)
    with torch.no_grad():
        for linear, array in ((base, w), (first, a), (second, b)):
            linear.weight.copy_(torch.tensor(array.T))
        layer.weight = torch.nn.Parameter(torch.tensor(m))
        dropped = torch.tensor(np.asarray(drop(jnp.asarray(x), noise, 0.4, "gate", 0)))
        theirs = base(torch.tensor(x)) + layer(dropped, lora_A=first, lora_B=second, scaling=2.0, base_layer=base)
    assert (dropped == 0).any()
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5)


def test_a_column_of_zeros_stays_zero_and_has_finite_gradients():
    weight = jnp.ones((6, 8)).at[:, 3].set(0.0)
    parts = {"A": jnp.ones((6, 3)), "B": jnp.zeros((3, 8)), "magnitude": jnp.linalg.norm(weight, axis=0)}
    lora = Lora(3, 6.0, ("gate",), magnitudes=True)

    def output(parts: Any) -> jax.Array:
        return Adapters(lora, {"gate": parts}).project("gate", "BTD,DF->BTF", jnp.ones((1, 2, 6)), weight, Parallel())

    np.testing.assert_allclose(output(parts), jnp.ones((1, 2, 6)) @ weight, rtol=1e-6)
    grads = jax.grad(lambda parts: jnp.sum(output(parts) ** 2))(parts)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
