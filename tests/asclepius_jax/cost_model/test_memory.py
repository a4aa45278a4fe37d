"""The memory model against what the CUDA compiler allocates, and what is chosen by it."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
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
from asclepius_jax.cost_model.choose import Machine, best, candidates, check_memory, machine_of, settle
from asclepius_jax.cost_model.hardware import DEVICES
from asclepius_jax.cost_model.memory import estimate
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.distributed import same_program
from asclepius_jax.distributed.sharding import make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import build
from asclepius_jax.model.sizes import VARIANTS, DecoderConfig
from asclepius_jax.plan.compile import PlanOptions, allocations, compile_step, plan
from asclepius_jax.train.choose_kernel import choose_kernel
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
    "tensor": ("h100-8", config("llama2_7b", 64, 1, "attention", tensor=2)),
    "adapters": ("h100-8", adapters(config("llama2_7b", 128, 1, "full"), dropout=0.0)),
}
REST = {
    "13B on Ampere": ("a100-80g-8", config("llama2_13b", 128, 1, "full")),
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds",
    [("window", "full") * 6, ("window", "window", "full") * 4, ("full",) * 10 + ("window",) * 2,
     ("window", "full") * 5 + ("window",) * 2],
)  # fmt: skip
def test_layers_of_several_kinds_are_estimated_within_a_tenth_as_well(kinds: tuple[str, ...]):
    pytest.importorskip("jax_cuda13_plugin", reason="the extra `plan` is not installed")
    run = config("", 8, 1, "full")
    mesh = make_mesh(MeshConfig(), compile_devices(parse_topology("h100-8")))
    model = DecoderConfig(8192, 4096, 11_008, len(kinds), 32, 32, max_length=2048, window=500, layer_kinds=kinds)
    kernel = choose_kernel(run, mesh, model)
    compiled, _ = compile_step(run, build(model), mesh, kernel, 100)
    assert estimate(run, model, MESH, kernel).total == pytest.approx(allocations(compiled)[2], rel=0.1)


def test_each_window_has_a_mask_of_its_own_on_ampere():
    llama, rows = VARIANTS["llama2_7b"], 64 // MESH["fsdp"]
    kinds = dataclasses.replace(llama, window=512, layer_kinds=("window", "full", "window_nope", "window") * 8)

    def masks(model: DecoderConfig) -> float:
        need = (
            estimate(config("", 64, 1, "full"), model, MESH, Kernel(name)).working for name in ("cudnn_mask", "splash")
        )
        return next(need) - next(need)

    assert masks(kinds) == 2 * masks(llama) == 2 * 2 * rows * 2048**2
    assert masks(dataclasses.replace(kinds, window=2048)) == masks(llama)


def test_adapters_leave_of_the_base_two_bytes_a_parameter_of_a_matrix_and_no_more():
    model, lora = VARIANTS["llama2_7b"], LoraConfig(rank=16)
    run = dataclasses.replace(config("llama2_7b", 128, 1, "full"), lora=lora)
    whole = dataclasses.replace(run, lora=dataclasses.replace(lora, base_dtype="float32"))
    parts, kept = (estimate(each, model, MESH, Kernel("cudnn_packed", 16)) for each in (run, whole))
    D, F, L, R = 4096, 11008, 32, 16
    # Of every pair, fsdp splits the one that has the model's width.
    each = L * R * (7 * D / 8 + 4 * D + 3 * F)
    assert parts.optimizer == pytest.approx(8 * each)
    assert parts.gradients == pytest.approx(4 * each)
    scales = (2 * L + 1) * D  # of norms, in float32 either way
    assert parts.params == pytest.approx((2 * (model.num_params - scales) + 4 * scales) / 8 + 4 * each)
    assert kept.params - parts.params == pytest.approx(2 * (model.num_params - scales) / 8)


def chosen(name: str, model: str, **changes: object) -> TrainConfig:
    topology = parse_topology(name)
    open_run = dataclasses.replace(config(model, 128, 0, "auto"), **changes)
    mesh = make_mesh(MeshConfig(), jax.devices()[:8])
    found = list(candidates(open_run, mesh))
    machine = Machine(name, topology.device.platform, topology.device.limit_bytes, topology)
    return best(found, VARIANTS[model], machine, mesh, Kernel("cudnn_packed", 16))[0]


def test_a_card_with_less_memory_saves_less_or_computes_in_more_parts():
    roomy, small = chosen("h200-8", "llama2_13b"), chosen("a6000-48g-8", "llama2_13b")
    assert roomy.compute.remat == "projections"  # and none in more parts, which gather all weights again
    assert small.compute.remat == "full"
    for name, run in (("h200-8", roomy), ("a6000-48g-8", small)):
        need = estimate(run, VARIANTS["llama2_13b"], MESH, Kernel("cudnn_packed", 16)).total
        assert need <= parse_topology(name).device.limit_bytes


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


# ---------------------------------------------------------------- what a device reports


class Card:
    """A device as JAX shows it. `memory` is what it reports, None for one that reports nothing."""

    platform, process_index = "gpu", 0

    def __init__(self, kind: str, memory: int | None):
        self.device_kind, self.memory = kind, memory

    def memory_stats(self) -> dict[str, int] | None:
        return None if self.memory is None else {"bytes_limit": self.memory, "bytes_in_use": 0}


class Elsewhere(Card):
    """A device that is only compiled for, or one of another process."""

    def memory_stats(self) -> dict[str, int] | None:
        raise jax.errors.JaxRuntimeError("MemoryStats is only supported for addressable PjRt devices.")


def mesh_of(*cards: Card) -> Any:
    return SimpleNamespace(devices=np.array(cards), shape={**MESH, "fsdp": len(cards)})


A100, MIG = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3 MIG 3g.40gb"


@pytest.mark.parametrize(
    ("mesh", "name", "limit", "known"),
    [
        (mesh_of(Card(A100, 70 * GIB), Card(A100, 69 * GIB)), "a100-80g", 69 * GIB, True),
        (mesh_of(Elsewhere(A100, None)), "a100-80g", DEVICES["a100-80g"].limit_bytes, True),
        (mesh_of(Card(A100, None)), "a100-80g", DEVICES["a100-80g"].limit_bytes, True),
        (mesh_of(Card(A100, 0)), "a100-80g", DEVICES["a100-80g"].limit_bytes, True),
        (mesh_of(Card(MIG, 36 * GIB)), MIG, 36 * GIB, False),
        (mesh_of(Card(MIG, None)), MIG, None, False),
        (mesh_of(Card("NVIDIA L40S", None)), "NVIDIA L40S", None, False),
        # No row is that of both.
        (mesh_of(Card(A100, 70 * GIB), Card(MIG, 36 * GIB)), f"{A100} and {MIG}", 36 * GIB, False),
    ],
)
def test_memory_is_what_the_device_reports_then_that_of_its_full_name_then_unknown(
    mesh: Any, name: str, limit: int | None, known: bool
):
    machine = machine_of(mesh)
    assert (machine.name, machine.limit_bytes, machine.topology is not None) == (name, limit, known)


def test_all_processes_of_a_job_count_with_the_least_memory_of_any(monkeypatch):
    asked = []
    monkeypatch.setattr(
        same_program, "problems_of_all", lambda name, text: [asked.append(name) or text, str(36 * GIB), str(90 * GIB)]
    )
    assert machine_of(mesh_of(Card(A100, 70 * GIB))).limit_bytes == 36 * GIB
    assert machine_of(mesh_of(Card(A100, 30 * GIB))).limit_bytes == 30 * GIB
    assert len(set(asked)) == 2


def test_a_part_of_a_card_is_not_filled_as_the_whole(capsys):
    whole, part = (mesh_of(*[Card(kind, memory)] * 8) for kind, memory in ((A100, 73 * GIB), (MIG, 36 * GIB)))
    model, open_run = VARIANTS["llama2_7b"], config("llama2_7b", 128, 0, "auto")
    on_whole, on_part = (settle(open_run, model, mesh, Kernel("cudnn_packed", 16)) for mesh in (whole, part))
    needs = [estimate(run, model, MESH, Kernel("cudnn_packed", 16)).total for run in (on_whole, on_part)]
    assert needs[1] <= 0.92 * 36 * GIB < needs[0] <= 0.92 * 73 * GIB
    assert f"first that fits {MIG}, about" in capsys.readouterr().out
    with pytest.raises(UserError, match=rf"the run needs about .* GiB of memory, and one {MIG} has 36.0 GiB"):
        check_memory(on_whole, model, part, Kernel("cudnn_packed", 16))
    check_memory(on_part, model, part, Kernel("cudnn_packed", 16))


def test_where_memory_is_unknown_nothing_is_said_to_fit(capsys):
    unknown = mesh_of(*[Card("NVIDIA L40S", None)] * 8)
    model, open_run = VARIANTS["llama2_7b"], config("llama2_7b", 128, 0, "auto")
    run = settle(open_run, model, unknown, Kernel("cudnn_packed", 16))
    assert (run.batch.microbatches, run.compute.remat) == (16, "full")
    check_memory(run, model, unknown, Kernel("cudnn_packed", 16))
    told = capsys.readouterr().out
    assert "microbatches 16, remat full: least memory, as that of NVIDIA L40S is unknown" in told
    assert "the memory of NVIDIA L40S is unknown: whether the run fits is not checked; it needs about" in told
    assert "fits NVIDIA" not in told
