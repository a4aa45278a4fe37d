"""Adapters on adapters, two and three deep: the base of each is what its checkpoint and its folder store.

What is computed from them differs in the last bits between NumPy and a device, and between meshes, wherever
alpha / rank is no power of two.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import tensorstore

from asclepius_jax.checkpoint.adapters import adapted, differing_base
from asclepius_jax.checkpoint.read import DIGESTS, META, digests_of, find_step, read_meta, read_stored
from asclepius_jax.config import (
    BatchConfig,
    ComputeConfig,
    DataConfig,
    InitConfig,
    LoraConfig,
    MeshConfig,
    TrainConfig,
)
from asclepius_jax.config.schema import with_learning_rate
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.distributed.sharding import make_mesh
from asclepius_jax.generate.load import load_checkpoint
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import safetensors
from asclepius_jax.model.huggingface.names import flatten, hf_shapes, names
from asclepius_jax.model.lora import TARGETS
from asclepius_jax.train.batches import PackedRows
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.setup import load_rows
from asclepius_jax.train.start import start_state
from asclepius_jax.train.step import state_shardings
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import MODEL, random_folder, to_hf
from tests.helpers.training.small_run import save_random_adapters

ROW, BATCH = 32, 8
# Each on the one before; the names are those of their folders.
LORAS = {
    "first": LoraConfig(rank=6, alpha=16.0),
    "second": LoraConfig(rank=12, alpha=20.0, targets=("q", "o", "down"), rank_stabilized=True, magnitudes=True),
    "third": LoraConfig(rank=100, alpha=64.0, targets=("v", "o", "gate")),
}
MESHES = {
    "one device": MeshConfig(1, 1),
    "data": MeshConfig(8, 1),
    "fsdp": MeshConfig(1, 8),
    "all": MeshConfig(2, 2, 2),
    "context": MeshConfig(1, 2, 1, 2),
}


class Chain(NamedTuple):
    """Runs of three adapters, of which only their checkpoints remain."""

    configs: list[TrainConfig]

    @property
    def root(self) -> Path:
        return Path(self.configs[0].init.hf)

    def copy(self, folder: Path) -> "Chain":
        """The same runs and their root in another folder."""
        old, new = str(self.root.parent), str(folder)
        shutil.copytree(old, new)
        moved = []
        for config in self.configs:
            init = InitConfig(config.init.hf.replace(old, new), config.init.checkpoint.replace(old, new))
            config = dataclasses.replace(config, run_dir=config.run_dir.replace(old, new), model=f"{new}/hf", init=init)
            edit_meta(config, lambda meta: meta.update(json.loads(json.dumps(meta).replace(old, new))))
            moved.append(config)
        return Chain(moved)


def edit_meta(config: TrainConfig, change: Callable[[dict[str, Any]], None]) -> None:
    step = find_step(Path(config.run_dir))[1]
    meta = json.loads((step / META).read_text())
    change(meta)
    (step / META).write_text(json.dumps(meta))
    (step / DIGESTS).write_text(json.dumps(digests_of(step)))


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def chain(request: Any, inputs: tuple[Path, PackedRows], tmp_path_factory) -> Chain:
    """Saved on eight devices: the first on a folder, the others on the run before."""
    root, (source, rows) = tmp_path_factory.mktemp("chain"), inputs
    shutil.copytree(source, root / "hf")
    init, configs = InitConfig(hf=str(root / "hf")), []
    for name, lora in LORAS.items():
        config = TrainConfig(
            run_dir=str(root / name),
            model=str(root / "hf"),
            init=init,
            data=DataConfig(str(rows.folder), row_length=ROW),
            batch=BatchConfig(BATCH),
            mesh=MESHES["all"],
            compute=ComputeConfig("float32", "none"),
            lora=dataclasses.replace(lora, base_dtype=request.param),
            few_steps=True,
        )
        save_random_adapters(config, rows)
        configs.append(config)
        init = InitConfig(checkpoint=str(root / name))
    return Chain(configs)


@pytest.fixture(scope="module")
def inputs(base: TrainConfig, small_tokenizer: Path, tmp_path_factory) -> tuple[Path, PackedRows]:
    """A Hugging Face folder, and rows for its tokenizer."""
    folder = tmp_path_factory.mktemp("inputs") / "hf"
    shutil.copytree(small_tokenizer, folder)
    random_folder(folder, MODEL, np.float32)
    return folder, load_rows(base.data.path[0])


def load(chain: Chain) -> PackedRows:
    return load_rows(chain.configs[0].data.path[0])


def resumed(config: TrainConfig, mesh: MeshConfig) -> Any:
    """The state from which `train` goes on, on another mesh."""
    placed = make_mesh(mesh, jax.devices()[: mesh.data * abs(mesh.fsdp) * mesh.tensor * mesh.context])
    model = adapted(build(MODEL), config.lora)
    optimizer = make_optimizer(config.optimizer, 10)
    shardings = state_shardings(placed, model, optimizer)
    return start_state(
        with_learning_rate(config), model, PackedRows(Path(config.data.path[0]), ROW), optimizer, shardings
    )


def expected_folder(configs: list[TrainConfig]) -> dict[str, np.ndarray]:
    """The tensors of the root with all adapters, in float64."""
    root = safetensors.open_folder(Path(configs[0].init.hf))
    whole = {name: np.asarray(root[name], np.float64) for name in hf_shapes(build(MODEL))}
    rows = {row[0]: row for row in names(build(MODEL))}
    for config in configs:
        step = find_step(Path(config.run_dir))[1]
        for target in config.lora.targets:
            row = rows[f"blocks.{TARGETS[target].parameter}"]
            a, b = (read_stored(step, f"{target}.{part}", "adapters").astype(np.float64) for part in "AB")
            inputs, outputs, matrix = TARGETS[target].update.replace("->", ",").split(",")
            update = np.einsum(f"L{inputs},L{outputs}->L{matrix}", a, b)
            scale = config.lora.alpha / (config.lora.rank**0.5 if config.lora.rank_stabilized else config.lora.rank)
            for name, value in to_hf(row, scale * update):
                whole[name] += value
            if config.lora.magnitudes:
                magnitudes = read_stored(step, f"{target}.magnitude", "adapters").astype(np.float64)
                for layer, magnitude in enumerate(magnitudes):
                    name = row[1].format(layer)
                    lengths = np.linalg.norm(whole[name], axis=1, keepdims=True)
                    whole[name] = magnitude.reshape(-1, 1) * whole[name] / lengths
    return whole


@pytest.mark.parametrize("depth", [2, 3])
def test_a_chain_is_exported_as_its_root_with_all_adapters(chain: Chain, depth: int, tmp_path: Path):
    configs = chain.configs[:depth]
    for dtype, tolerance in (("float32", 2e-5), ("bfloat16", 2e-2)):
        run_export(ExportConfig(Path(configs[-1].run_dir), tmp_path / dtype, dtype))
        exported, expected = safetensors.open_folder(tmp_path / dtype), expected_folder(configs)
        for name, value in expected.items():
            np.testing.assert_allclose(
                np.asarray(exported[name], np.float64), value, atol=tolerance, rtol=0, err_msg=f"{dtype} {name}"
            )
    root = safetensors.open_folder(chain.root)
    moved = [name for name in expected if np.abs(expected[name] - np.asarray(root[name])).max() > 5e-2]
    assert len(moved) == 7 * MODEL.num_layers


# Each takes seconds: the deepest run is on the others, so that all three are merged.
@pytest.mark.parametrize(
    "mesh", [name if name == "context" else pytest.param(name, marks=pytest.mark.slow) for name in MESHES]
)
def test_a_chain_resumes_on_every_mesh(chain: Chain, mesh: str):
    config = chain.configs[-1]
    state = resumed(config, MESHES[mesh])
    for name, value in flatten(state["adapters"]).items():
        stored = read_stored(find_step(Path(config.run_dir))[1], name, "adapters")
        np.testing.assert_array_equal(value, stored, err_msg=name)
    kept = flatten(state["params"])
    assert kept["blocks.mlp.up_DF"].dtype == config.lora.base_dtype
    expected = expected_folder(chain.configs[:-1])
    for row in names(build(MODEL)):
        for name, value in to_hf(row, np.asarray(kept[row[0]], np.float32)):
            np.testing.assert_allclose(value, expected[name], atol=2e-5, rtol=2**-8, err_msg=name)


@pytest.mark.parametrize("chain", ["float32"], indirect=True)
def test_a_base_that_has_a_newer_step_is_exported_as_the_step_that_was_trained_on(chain: Chain, tmp_path: Path):
    first = Path(chain.configs[0].run_dir)
    newer = first / "checkpoints/1"
    save_random_adapters(dataclasses.replace(chain.configs[0], run_dir=str(tmp_path / "other")), load(chain), seed=1)
    shutil.copytree(tmp_path / "other/checkpoints/0", newer)
    try:
        run_export(ExportConfig(Path(chain.configs[1].run_dir), tmp_path / "out", "float32"))
    finally:
        shutil.rmtree(newer)
    exported, expected = safetensors.open_folder(tmp_path / "out"), expected_folder(chain.configs[:2])
    for name, value in expected.items():
        np.testing.assert_allclose(exported[name], value, atol=2e-5, err_msg=name)


# ---------------------------------------------------------------- another base


def other_root(chain: Chain) -> str:
    random_folder(chain.root, MODEL, np.float32, seed=1)
    return "hf is not the base that the adapters"


def other_adapters(chain: Chain) -> str:
    """The run in the middle was trained again: another step of the same name."""
    config = chain.configs[1]
    shutil.rmtree(config.run_dir)
    save_random_adapters(config, load(chain), seed=1)
    return r"second/checkpoints/0 is not the base .*base/adapters/"


def other_magnitudes(chain: Chain) -> str:
    config = chain.configs[1]
    shutil.rmtree(config.run_dir)
    save_random_adapters(config, load(chain), longer=0.5)
    return r"second/checkpoints/0 is not the base .*base/adapters/down.magnitude differs"


def other_scale(chain: Chain) -> str:
    edit_meta(chain.configs[1], lambda meta: meta["config"]["lora"].update(alpha=21.0))
    return r"second/checkpoints/0 is not the base .*base/scale differs"


def no_adapters(chain: Chain) -> str:
    """The run in the middle was replaced by complete weights."""
    config = chain.configs[1]
    shutil.rmtree(config.run_dir)
    run_import(ImportConfig(chain.root, Path(config.run_dir)))
    return r"second/checkpoints/0 is not the base .*base/.* differs"


@pytest.mark.parametrize("chain", ["float32"], indirect=True)
@pytest.mark.parametrize("change", [other_root, other_adapters, other_magnitudes, other_scale, no_adapters])
def test_a_chain_on_another_base_is_neither_exported_nor_loaded(chain: Chain, change: Any, tmp_path: Path):
    chain = chain.copy(tmp_path / "chain")
    told, last = change(chain), Path(chain.configs[-1].run_dir)
    with pytest.raises(UserError, match=told):
        run_export(ExportConfig(last, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=told):
        load_checkpoint(last)


@pytest.mark.parametrize("chain", ["float32"], indirect=True)
def test_a_flipped_bit_of_adapters_is_not_exported(chain: Chain, tmp_path: Path):
    chain = chain.copy(tmp_path / "chain")
    step = find_step(Path(chain.configs[0].run_dir))[1]
    # As a flipped bit in a file of arrays, which digests.json does not hash.
    store = {"driver": "ocdbt", "base": f"file://{step}/adapters/", "path": "q.A/"}
    array = tensorstore.open({"driver": "zarr", "kvstore": store}, write=True, read=True).result()
    array[0, 0, 0] = np.nextafter(array[0, 0, 0].read().result(), np.float32(1))
    (step / DIGESTS).write_text(json.dumps(digests_of(step)))
    for flags in ({}, {"adapters": True}):
        with pytest.raises(UserError, match=r"first/checkpoints/0 is damaged .*adapters/q.A is not what was saved"):
            run_export(ExportConfig(Path(chain.configs[0].run_dir), tmp_path / "out", **flags))


@pytest.mark.parametrize("chain", ["float32"], indirect=True)
def test_a_chain_of_version_0_1_0_is_taken_where_its_merged_weights_have_the_same_bits(chain: Chain):
    """It recorded the checksums of merged weights, which are those of the mesh that it trained on."""
    config = chain.configs[1]
    meta = read_meta(find_step(Path(config.run_dir))[1])
    before = dataclasses.replace(meta, checksums={"adapters/q.A": "1", "base/embed_VD": "2"})
    assert differing_base(before, config.init, lambda: {"embed_VD": "2"}) == ""
    told = differing_base(before, config.init, lambda: {"embed_VD": "3"})
    assert told.startswith(
        "base/embed_VD differs, or its merged weights, which version 0.1.0 recorded, were computed on"
    )
    # Of complete weights, it recorded what is recorded now.
    assert differing_base(before, InitConfig(hf="any"), lambda: {"embed_VD": "2"}) == ""
    assert differing_base(before, InitConfig(hf="any"), lambda: {"embed_VD": "3"}) == "base/embed_VD differs"
