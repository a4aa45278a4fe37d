"""The memory model against what the CUDA compiler allocates, and what is chosen by it."""

import dataclasses

import jax
import pytest

from asclepius_jax.config import (
    BatchConfig,
    ComputeConfig,
    DataConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from asclepius_jax.cost_model.choose import best, candidates, settle
from asclepius_jax.cost_model.memory import estimate
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.distributed.sharding import make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.sizes import VARIANTS
from asclepius_jax.plan.compile import PlanOptions, plan
from data_prep.contract.errors import UserError

GIB = 2**30
MESH = {"data": 1, "fsdp": 8, "tensor": 1, "context": 1}


def config(model: str, rows: int, microbatches: int, remat: str, **mesh: int) -> TrainConfig:
    return TrainConfig(
        model=model,
        batch=BatchConfig(rows, microbatches),
        compute=ComputeConfig(remat=remat, reduce_dtype="bfloat16"),
        mesh=MeshConfig(**mesh),
    )


def adapters(run: TrainConfig, dropout: float) -> TrainConfig:
    return dataclasses.replace(run, lora=LoraConfig(rank=16, dropout=dropout))


# The first of each kind here, the rest in slow: five seconds each.
CASES = {
    "4 parts, all saved": ("h100-8", config("llama2_7b", 128, 4, "none")),
    "13B on Ampere": ("a100-80g-8", config("llama2_13b", 128, 1, "full")),
    "tensor": ("h100-8", config("llama2_7b", 64, 1, "attention", tensor=2)),
    "adapters": ("h100-8", adapters(config("llama2_7b", 128, 1, "full"), dropout=0.0)),
}
REST = {
    "16 rows": ("h100-8", config("llama2_7b", 128, 1, "full")),
    "projections": ("a6000-48g-8", config("llama2_7b", 128, 4, "projections")),
    "adapters with dropout": ("h100-8", adapters(config("llama2_7b", 128, 1, "full"), dropout=0.05)),
    "adapters on one card": ("h100-1", adapters(config("llama2_7b", 4, 1, "full"), dropout=0.0)),
    "adapters and tensor": ("h100-8", adapters(config("llama2_7b", 64, 1, "attention", tensor=2), dropout=0.0)),
}


@pytest.mark.parametrize(
    ("name", "run"),
    [
        *(pytest.param(*case, id=name) for name, case in CASES.items()),
        *(pytest.param(*case, id=name, marks=pytest.mark.slow) for name, case in REST.items()),
    ],
)
def test_the_estimate_is_within_a_tenth_of_the_compiler(name: str, run: TrainConfig):
    pytest.importorskip("jax_cuda13_plugin", reason="the extra `plan` is not installed")
    topology = parse_topology(name)
    devices = compile_devices(topology)
    made = plan(run, topology, devices, PlanOptions(name))
    kernel = Kernel("cudnn_packed", 16) if name.startswith("h100") else Kernel("cudnn_mask")
    mesh = dict(make_mesh(run.mesh, devices).shape)
    assert estimate(run, VARIANTS[run.model], mesh, kernel).total == pytest.approx(
        made.report["memory"]["peak_bytes"], rel=0.1
    )


def total(remat: str = "full", microbatches: int = 1, **changes: object) -> float:
    run = dataclasses.replace(config("llama2_7b", 128, microbatches, remat), **changes)
    return estimate(run, VARIANTS["llama2_7b"], MESH, Kernel("cudnn_packed", 16)).total


def test_what_is_saved_decides_the_memory():
    sizes = [total(remat) for remat in ("offload", "full", "attention", "projections", "none")]
    assert sizes == sorted(sizes)
    # The inputs of 32 blocks: 16 x 2,048 tokens of 4,096 bfloat16 numbers.
    assert total("full") - total("offload") == 32 * 16 * 2048 * 4096 * 2
    assert total(microbatches=4) < total(microbatches=1)
    small = OptimizerConfig(first_moment_dtype="bfloat16")
    assert total() - total(optimizer=small) == pytest.approx(2 * VARIANTS["llama2_7b"].num_params / 8)


def test_adapters_leave_of_the_base_two_bytes_a_parameter_and_no_more():
    model, lora = VARIANTS["llama2_7b"], LoraConfig(rank=16)
    run = dataclasses.replace(config("llama2_7b", 128, 1, "full"), lora=lora)
    whole = dataclasses.replace(run, lora=dataclasses.replace(lora, base_dtype="float32"))
    parts, kept = (estimate(each, model, MESH, Kernel("cudnn_packed", 16)) for each in (run, whole))
    D, F, L, R = 4096, 11008, 32, 16
    # Of every pair, fsdp splits the one that has the model's width.
    each = L * R * (7 * D / 8 + 4 * D + 3 * F)
    assert parts.optimizer == pytest.approx(8 * each)
    assert parts.gradients == pytest.approx(4 * each)
    assert parts.params == pytest.approx(2 * model.num_params / 8 + 4 * each)
    assert kept.params - parts.params == pytest.approx(2 * model.num_params / 8)


def chosen(name: str, model: str, **changes: object) -> TrainConfig:
    topology = parse_topology(name)
    open_run = dataclasses.replace(config(model, 128, 0, "auto"), **changes)
    mesh = make_mesh(MeshConfig(), jax.devices()[:8])
    found = list(candidates(open_run, mesh))
    return best(found, VARIANTS[model], topology, mesh, Kernel("cudnn_packed", 16))[0]


def test_a_card_with_less_memory_saves_less_or_computes_in_more_parts():
    roomy, small = chosen("h200-8", "llama2_13b"), chosen("a6000-48g-8", "llama2_13b")
    assert roomy.compute.remat == "none"
    assert small.compute.remat == "full"
    assert chosen("h100-8", "llama2_7b").batch.microbatches <= small.batch.microbatches


def test_what_fits_nowhere_is_offloaded_as_a_last_resort():
    long = DataConfig(row_length=65536)
    run = chosen("a6000-48g-8", "llama2_13b", data=long, batch=BatchConfig(8))
    assert (run.batch.microbatches, run.compute.remat) == (1, "offload")


def test_what_the_configuration_states_is_kept(capsys):
    mesh = make_mesh(MeshConfig(), jax.devices()[:8])
    stated = config("llama2_7b", 128, 2, "attention")
    assert settle(stated, VARIANTS["llama2_7b"], mesh, Kernel()) == stated
    assert capsys.readouterr().out == ""
    half = dataclasses.replace(stated, batch=BatchConfig(128))
    settled = settle(half, VARIANTS["llama2_7b"], mesh, Kernel())
    assert settled.compute == stated.compute
    assert settled.batch.microbatches > 0
    assert f"microbatches {settled.batch.microbatches}, remat attention: " in capsys.readouterr().out


def test_microbatches_that_leave_no_whole_rows_are_refused():
    mesh = make_mesh(MeshConfig(), jax.devices()[:8])
    with pytest.raises(UserError, match=r"batch.microbatches 32 leaves 4 rows.*use one of \[1, 2, 4, 8, 16\]"):
        settle(config("llama2_7b", 128, 32, "full"), VARIANTS["llama2_7b"], mesh, Kernel())
