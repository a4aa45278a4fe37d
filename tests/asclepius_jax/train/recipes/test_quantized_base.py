"""Adapters on a base in int8 or nf4 train the same on every mesh, resume, and are merged into the unquantized base."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asclepius_jax.checkpoint.adapters import adapted, weight_checksums, whole_params
from asclepius_jax.checkpoint.read import find_step, read_meta, read_stored
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
from asclepius_jax.convert.export_peft import read_adapters
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.convert.merge_adapters import base_reader, merge, stored_checksums
from asclepius_jax.cost_model.choose import layout_of
from asclepius_jax.cost_model.memory import estimate
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.generate.load import load_checkpoint
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import safetensors
from asclepius_jax.model.huggingface.names import flatten, load_params
from asclepius_jax.model.quantized import Quantized, dequantized, quantized_on_host
from asclepius_jax.model.sizes import VARIANTS
from asclepius_jax.plan.compile import PlanOptions, plan
from asclepius_jax.train.batches import PackedRows
from asclepius_jax.train.loop import train
from asclepius_jax.train.setup import load_rows, make_step
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import MODEL as SMALL
from tests.helpers.made_inputs import packed_notes, random_folder
from tests.helpers.training.small_run import losses_of

ROW, BATCH, TOTAL = 32, 8, 4
MODEL = dataclasses.replace(SMALL, mlp_dim=64)  # two blocks of 32 values, for two tensor devices
MESHES = {"one device": (1, 1, 1, 1), "fsdp": (1, 2, 1, 1), "tensor": (1, 1, 2, 1), "all": (2, 2, 2, 1)}
MESHES |= {"context": (1, 1, 1, 2)}


@pytest.fixture(scope="module", params=["int8", "nf4"])
def config(request: Any, small_tokenizer: Path, tmp_path_factory) -> TrainConfig:
    """A finished run of four steps, of adapters with magnitudes on nf4."""
    root = tmp_path_factory.mktemp(request.param)
    shutil.copytree(small_tokenizer, root / "hf")
    random_folder(root / "hf", MODEL, np.float32)
    data = packed_notes(root, small_tokenizer, 120, ROW)
    config = TrainConfig(
        run_dir=str(root / "run"),
        model=str(root / "hf"),
        init=InitConfig(hf=str(root / "hf")),
        data=DataConfig(str(data), row_length=ROW, epochs=(TOTAL + 0.5) * BATCH / len(PackedRows(data, ROW))),
        batch=BatchConfig(BATCH),
        mesh=MeshConfig(2, 2, 2),
        compute=ComputeConfig("float32", "full"),
        optimizer=OptimizerConfig(learning_rate=2e-2),
        checkpoint=CheckpointConfig(every_steps=2, keep=5),
        log=LogConfig(every_steps=1, tensorboard=False, progress=False),
        lora=LoraConfig(rank=4, alpha=8.0, base_dtype=request.param, magnitudes=request.param == "nf4"),
        few_steps=True,
    )
    train(config)
    return config


def first_losses(config: TrainConfig, mesh: tuple[int, int, int, int]) -> tuple[list[float], Any]:
    """Losses of two steps on a mesh, and the first state."""
    rows = load_rows(config.data.path[0])
    devices = jax.devices()[: int(np.prod(mesh))]
    step = make_step(dataclasses.replace(config, mesh=MeshConfig(*mesh)), rows=rows, devices=devices)
    first, losses = step.init(), []
    kept = jax.tree.map(jnp.copy, first["params"])
    state = first
    for number in range(2):
        state, metrics = step(state, step.batch(number))
        losses.append(float(metrics["loss"]))
    return losses, kept


def test_losses_are_the_same_on_every_mesh(config: TrainConfig):
    config = dataclasses.replace(config, optimizer=OptimizerConfig(learning_rate=2e-2, warmup_fraction=0.0))
    losses = {name: first_losses(config, mesh)[0] for name, mesh in MESHES.items()}
    for name, found in losses.items():
        np.testing.assert_allclose(found, losses["one device"], rtol=2e-6, err_msg=name)
    plain = dataclasses.replace(config, lora=dataclasses.replace(config.lora, base_dtype="float32"))
    assert first_losses(plain, MESHES["one device"])[0][0] != losses["one device"][0]


def test_devices_hold_slices_of_codes_and_scales(config: TrainConfig):
    _, params = first_losses(config, MESHES["all"])
    up, embedding = params["blocks"]["mlp"]["up_DF"], params["embed_VD"]
    width = 64 if config.lora.base_dtype == "int8" else 32
    assert [part.shape for part in (up.codes, up.scales)] == [(2, 32, width), (2, 32, 2)]
    shards = [part.addressable_shards[0].data.shape for part in (up.codes, up.scales)]
    assert shards == [(2, 16, width // 2), (2, 16, 1)]
    assert up.scales.dtype == embedding.dtype == jnp.bfloat16
    assert params["blocks"]["mlp_norm"]["scale"].dtype == jnp.float32
    folder, model = Path(config.init.hf), build(MODEL)
    places = param_shardings(make_mesh(MeshConfig(1, 1), jax.devices()[:1]), model)
    base = np.asarray(load_params(folder, model, places)["blocks"]["mlp"]["up_DF"])
    host = quantized_on_host(base, config.lora.base_dtype)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(up), host)


def test_magnitudes_are_the_lengths_of_dequantized_columns(config: TrainConfig):
    lora = dataclasses.replace(config.lora, magnitudes=True)
    step = make_step(dataclasses.replace(config, lora=lora), rows=load_rows(config.data.path[0]))
    state = step.init()
    whole = np.asarray(dequantized(jax.device_get(state["params"]["blocks"]["mlp"]["down_DF"]), jnp.float32))
    expected = np.linalg.norm(whole, axis=2)
    np.testing.assert_allclose(state["adapters"]["down"]["magnitude"], expected, rtol=1e-6)


def test_a_resumed_run_ends_in_the_same_adapters(config: TrainConfig, tmp_path: Path):
    shutil.copytree(config.run_dir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    again = dataclasses.replace(config, run_dir=str(tmp_path / "run"))
    train(again)
    assert losses_of(tmp_path / "run") == losses_of(Path(config.run_dir))
    steps = [find_step(Path(each.run_dir))[1] for each in (config, again)]
    for name in flatten(adapted(build(MODEL), config.lora).adapter_shapes):
        ours, theirs = (read_stored(step, name, "adapters") for step in steps)
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_a_base_from_a_checkpoint_is_that_from_a_folder(config: TrainConfig, tmp_path: Path):
    run_import(ImportConfig(Path(config.init.hf), tmp_path / "imported"))
    init = InitConfig(checkpoint=str(tmp_path / "imported"))
    train(dataclasses.replace(config, run_dir=str(tmp_path / "run"), init=init))
    assert losses_of(tmp_path / "run") == losses_of(Path(config.run_dir))


def test_the_base_is_on_the_devices_one_parameter_at_a_time(config: TrainConfig, tmp_path: Path, monkeypatch):
    """Of a chain: its root, the merged adapters, and the quantized result."""
    from asclepius_jax.checkpoint import adapters as loading

    matrices = {leaf.shape for leaf in jax.tree.leaves(build(MODEL).shapes["blocks"]) if len(leaf.shape) > 2}
    found, checksums = [], loading.weight_checksums

    def held() -> int:
        """Number of float32 matrices on the devices of the mesh."""
        arrays = [a for a in jax.live_arrays() if a.dtype == jnp.float32 and a.shape in matrices]
        return sum(len(a.sharding.device_set) == 8 for a in arrays)

    def spied(params: Any, shapes: Any) -> dict[str, str]:
        found.append(held())
        return checksums(params, shapes)

    monkeypatch.setattr(loading, "weight_checksums", spied)
    before = held()
    model = adapted(build(MODEL), config.lora)
    places = param_shardings(make_mesh(MeshConfig(2, 2, 2)), model)
    params = whole_params(find_step(Path(config.run_dir))[1], model, places)
    assert isinstance(params["blocks"]["mlp"]["up_DF"], Quantized)
    assert max(found) - before == 1
    assert len(found) == len(flatten(build(MODEL).shapes))


# ---------------------------------------------------------------- export


def test_export_merges_the_adapters_into_the_unquantized_base(config: TrainConfig, tmp_path: Path):
    run_export(ExportConfig(Path(config.run_dir), tmp_path / "merged", "float32"))
    step = find_step(Path(config.run_dir))[1]
    adapters, base = read_adapters(step), base_reader(read_meta(step))
    assert adapters is not None
    merged = merge("mlp.up_DF", 1, base("blocks.mlp.up_DF", 1), adapters)
    exported, before = (safetensors.open_folder(folder) for folder in (tmp_path / "merged", Path(config.init.hf)))
    name = "model.layers.1.mlp.up_proj.weight"
    np.testing.assert_array_equal(exported[name], merged.T)
    np.testing.assert_array_equal(exported["model.norm.weight"], before["model.norm.weight"])
    assert np.abs(np.asarray(exported[name]) - np.asarray(before[name])).max() > 1e-2
    _, params, _ = load_checkpoint(config.run_dir, MeshConfig(2, 2, 2))
    np.testing.assert_allclose(params["blocks"]["mlp"]["up_DF"][1], merged, atol=1e-6)


def test_checksums_of_the_base_are_those_of_an_export(config: TrainConfig):
    step = find_step(Path(config.run_dir))[1]
    meta = read_meta(step)
    recorded = {name[5:]: value for name, value in meta.checksums.items() if name.startswith("base/")}
    assert {"blocks.mlp.up_DF.codes", "blocks.mlp.up_DF.scales", "embed_VD", "norm.scale"} <= recorded.keys()
    assert stored_checksums(base_reader(meta), meta) == recorded
    model = adapted(build(MODEL), config.lora)
    places = param_shardings(make_mesh(MeshConfig(1, 1), jax.devices()[:1]), model)
    assert weight_checksums(load_params(Path(config.init.hf), model, places), model.shapes) == recorded


def test_another_base_is_refused(config: TrainConfig, tmp_path: Path):
    kept = Path(config.init.hf)
    shutil.copytree(kept, tmp_path / "kept")
    try:
        random_folder(kept, MODEL, np.float32, seed=1)
        shutil.copytree(config.run_dir, tmp_path / "run")
        shutil.rmtree(tmp_path / "run/checkpoints/4")
        with pytest.raises(
            UserError, match=r"is not the base of the adapters in .*\(base/.* differs\): set the weights"
        ):
            train(dataclasses.replace(config, run_dir=str(tmp_path / "run")))
        with pytest.raises(UserError, match=r"not the base that the adapters were trained on, base/.* differs"):
            run_export(ExportConfig(Path(config.run_dir), tmp_path / "merged"))
    finally:
        shutil.copytree(tmp_path / "kept", kept, dirs_exist_ok=True)


def test_adapters_on_adapters_start_from_the_merged_base(config: TrainConfig, tmp_path: Path):
    init = InitConfig(checkpoint=config.run_dir)
    lora = LoraConfig(rank=2, base_dtype=config.lora.base_dtype)
    chained = dataclasses.replace(config, run_dir=str(tmp_path / "run"), init=init, lora=lora)
    train(chained)
    run_export(ExportConfig(tmp_path / "run", tmp_path / "merged", "float32"))
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    train(chained)
    run_export(ExportConfig(tmp_path / "run", tmp_path / "again", "float32"))
    first, second = (safetensors.open_folder(tmp_path / name) for name in ("merged", "again"))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


# ---------------------------------------------------------------- refused, and planned


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(config: TrainConfig, tmp_path: Path, bad: float):
    from safetensors.numpy import save_file

    shutil.copytree(config.init.hf, tmp_path / "hf")
    tensors = {name: np.array(value) for name, value in safetensors.open_folder(tmp_path / "hf").items()}
    tensors["model.layers.1.mlp.up_proj.weight"][5, 7] = bad
    save_file(tensors, tmp_path / "hf/model.safetensors")
    model = adapted(build(MODEL), config.lora)
    with pytest.raises(
        safetensors.FolderError, match=r"infinite or NaN values in 1 tensors: model.layers.1.mlp.up_proj.weight \(1\)"
    ):
        load_params(tmp_path / "hf", model, param_shardings(make_mesh(MeshConfig(1, 8)), model))


def test_a_mesh_that_cuts_a_block_is_refused(config: TrainConfig):
    model = adapted(build(dataclasses.replace(MODEL, num_kv_heads=4)), config.lora)
    told = r"mesh.tensor 4 cuts the blocks of 32 values in which \w+_DF, 64 wide, .* use one of \[1, 2\]"
    with pytest.raises(UserError, match=told):
        param_shardings(make_mesh(MeshConfig(1, 2, 4)), model)
    param_shardings(make_mesh(MeshConfig(1, 4, 2)), model)


def test_a_plan_counts_the_bytes_of_codes_and_scales():
    topology = parse_topology("cpu-8")
    needs, arguments = {}, {}
    for kind in ("bfloat16", "int8", "nf4"):
        config = TrainConfig(
            model="demo", data=DataConfig(row_length=64), batch=BatchConfig(8), mesh=MeshConfig(1, 8),
            lora=LoraConfig(rank=2, base_dtype=kind),  # type: ignore[arg-type]
        )  # fmt: skip
        made = plan(config, topology, compile_devices(topology), PlanOptions("cpu-8"))
        needs[kind], arguments[kind] = (made.report["memory"][f"{name}_bytes"] for name in ("parameters", "arguments"))
    blocks = VARIANTS["demo"].num_layers * VARIANTS["demo"].block_matrices / 8
    for kind, each in (("int8", 1.0625), ("nf4", 0.5625)):
        for found in (needs, arguments):  # according to the memory model, and to the compiler
            assert found["bfloat16"] - found[kind] == pytest.approx((2 - each) * blocks, rel=0.01)


def test_the_estimate_and_the_predicted_traffic_count_them_too():
    model = VARIANTS["llama2_7b"]
    mesh = make_mesh(MeshConfig(1, 8), jax.devices()[:8])
    base = TrainConfig(batch=BatchConfig(8, 1), compute=ComputeConfig(remat="full"), lora=LoraConfig(rank=16))
    nf4 = dataclasses.replace(base, lora=dataclasses.replace(base.lora, base_dtype="nf4"))
    saved = (
        estimate(base, model, dict(mesh.shape), Kernel()).total - estimate(nf4, model, dict(mesh.shape), Kernel()).total
    )
    assert saved == pytest.approx((2 - 0.5625) * 32 * model.block_matrices / 8, rel=1e-3)
    assert layout_of(nf4, mesh, model).gathered_bytes == 0.5625
    assert layout_of(base, mesh, model).gathered_bytes == 2
