"""The compiled step for machines that are not here: its kernels, its memory, and what it sends."""

import dataclasses
import functools
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from asclepius_jax.config import (
    BatchConfig,
    ComputeConfig,
    DataConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    load_config,
)
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.distributed.sharding import make_mesh
from asclepius_jax.distributed.xla_flags import set_flags_for_planning
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface.names import write_config
from asclepius_jax.model.sizes import VARIANTS, DecoderConfig
from asclepius_jax.plan import hlo, search, tables
from asclepius_jax.plan.command import run
from asclepius_jax.plan.compile import Plan, PlanOptions, plan
from asclepius_jax.plan.host_needs import checkpoint_bytes, host_facts, share_of_a_host, start_facts
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.setup import build_model
from asclepius_jax.train.step import abstract_state, state_shardings
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import TOKEN_IDS

GIB = 2**30


def gathered_ahead(model: DecoderConfig) -> int:
    """Elements of the matrices that the forward pass on GPUs gathers once more than there are layers, at its end."""
    return model.embed_dim * model.head_dim * (model.num_heads + 2 * model.num_kv_heads)


def blocks(model: DecoderConfig) -> int:
    """Parameters of the blocks alone."""
    return model.num_params - (2 * model.vocab_size + 1) * model.embed_dim


# As wide as 7B, four layers deep: what a layer does is the same, and compiling is quicker.
FOUR = dataclasses.replace(VARIANTS["llama2_7b"], num_layers=4)
T, V, D = 2048, FOUR.vocab_size, FOUR.embed_dim


class Size(NamedTuple):
    """Of a step; tokens a device are told from the model's width, and are more than a chunk of the loss."""

    rows: int  # a device
    row_length: int
    model: DecoderConfig


WIDE = Size(3, T, FOUR)
# The TPU's compiler takes over a minute for the kernels of long rows and many heads, whatever the depth.
SLIM = dataclasses.replace(FOUR, vocab_size=8192, embed_dim=128, mlp_dim=2048, num_heads=2, num_kv_heads=2)
NARROW = Size(5, 256, SLIM)


def write_model(folder: Path, model: DecoderConfig) -> Path:
    (folder / "config.json").write_text(write_config(model, "bfloat16", TOKEN_IDS))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("four-layers"), FOUR)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Any:
    """(topology, ...) -> Plan, compiled once."""

    @functools.cache
    def compiled(name: str, size: Size, reduce_dtype: str, mesh: MeshConfig) -> Plan:
        module = {"tpu": "libtpu", "cuda": "jax_cuda13_plugin", "cpu": "jax"}
        topology = parse_topology(name)
        pytest.importorskip(module[topology.device.platform], reason="the extra `plan` is not installed")
        config = TrainConfig(
            model=str(write_model(tmp_path_factory.mktemp("model"), size.model)),
            data=DataConfig(row_length=size.row_length),
            batch=BatchConfig(size.rows * topology.count, microbatches=1),
            compute=ComputeConfig(remat="full", reduce_dtype=reduce_dtype),
            mesh=mesh,
        )
        return plan(config, topology, compile_devices(topology), PlanOptions(name))

    def make(name: str, size: Size = WIDE, reduce_dtype: str = "bfloat16", mesh: MeshConfig | None = None) -> Plan:
        return compiled(name, size, reduce_dtype, mesh or MeshConfig())  # one key for what is left out and what is not

    return make


MACHINES = [
    pytest.param("v5e-16", NARROW, id="v5e-16-narrow", marks=pytest.mark.slow),
    pytest.param("v5e-16", WIDE, id="v5e-16-wide", marks=pytest.mark.slow),
    pytest.param("h100-8", WIDE, id="h100-8"),
    pytest.param("a100-80g-8", WIDE, id="a100-80g-8", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "size"), MACHINES)
def test_weights_are_gathered_once_a_pass_and_gradients_reduced_once(made, name: str, size: Size):
    totals: dict[str, int] = {}
    for each in made(name, size).report["collectives"]:
        assert each["axes"] == ["fsdp"]
        totals[each["kind"]] = totals.get(each["kind"], 0) + each["bytes"]
    # In bfloat16: blocks forward and backward, the two ends of the model once. Norm scales are on every device.
    model = size.model
    ahead = 0 if name.startswith("v") else gathered_ahead(model)
    least = 2 * (2 * blocks(model) + ahead + 2 * model.vocab_size * model.embed_dim)
    assert totals.pop("all-gather") == pytest.approx(least, rel=0.01)
    # TPU programs write a sum that is sliced as a sum of the whole.
    reduced = totals.pop("reduce-scatter", 0) + totals.pop("all-reduce", 0)
    assert reduced == pytest.approx(2 * model.num_params, rel=0.01)
    assert sum(totals.values()) < 0.01 * least


def test_gradients_travel_in_the_type_that_the_configuration_names(made):
    def scattered(reduce_dtype: str) -> int:
        report = made("h100-8", reduce_dtype=reduce_dtype).report
        return sum(each["bytes"] for each in report["collectives"] if each["kind"] == "reduce-scatter")

    assert scattered("float32") == 2 * scattered("bfloat16")


KERNELS = {
    "v5e-16": ("splash_mha_fwd_segmented", "splash_mha_dkv_segmented"),
    "h100-8": ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"),
    "a100-80g-8": ("__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"),
}


@pytest.mark.parametrize(("name", "size"), MACHINES)
def test_the_devices_own_attention_kernels_are_in_the_program(made, name: str, size: Size):
    text = made(name, size).compiled.as_text()
    forward, backward = KERNELS[name]
    assert forward in text
    assert backward in text


@pytest.mark.parametrize(("name", "size"), MACHINES)
def test_neither_scores_nor_logits_exist_whole(made, name: str, size: Size):
    rows, T, V = size.rows, size.row_length, size.model.vocab_size
    shapes = hlo.buffer_shapes(made(name, size).compiled.as_text())
    scores = [shape for shape in shapes if shape.count(T) >= 2]
    if name.startswith("a100"):  # the mask, which is no wider than the rows
        scores = [shape for shape in scores if math.prod(shape) > rows * T * T]
    assert not scores
    logits = [shape for shape in shapes if V in shape and math.prod(shape) // V in (T, rows * T)]
    assert not logits
    assert any(V in shape for shape in shapes)


@pytest.mark.parametrize(("name", "size"), MACHINES)
def test_the_memory_model_is_within_a_tenth_of_the_compiler(made, name: str, size: Size):
    memory = made(name, size).report["memory"]
    estimated = sum(memory[f"{part}_bytes"] for part in ("parameters", "optimizer", "gradients", "activations"))
    # What remains of the compiler's figure is the working memory; the model's own is in `estimate`.
    assert estimated < memory["peak_bytes"]
    state = 12 * size.model.num_params / parse_topology(name).count
    assert memory["arguments_bytes"] == pytest.approx(state, rel=0.02)


def test_a_program_that_is_too_large_is_a_verdict_and_no_crash(made):
    report = made("v5e-16", Size(64, T, FOUR)).report
    assert report["fits"] is False
    memory = report["memory"]
    assert memory["peak_bytes"] > memory["limit_bytes"] == int(15.75 * GIB)
    assert made("h100-8").report["fits"] is True


@pytest.mark.parametrize(
    ("mesh", "row_length", "axes"),
    [
        (MeshConfig(data=1, fsdp=4, tensor=2), T, {("tensor",)}),
        (MeshConfig(data=1, fsdp=4, context=2), 4 * T, {("context",)}),
        (MeshConfig(data=2, fsdp=4), T, {("data",)}),
    ],
    ids=["tensor", "context", "data"],
)
def test_every_mesh_axis_sends_what_it_should_and_no_more(
    made, mesh: MeshConfig, row_length: int, axes: set[tuple[str]]
):
    rows = 1 if mesh.data == 1 else 2
    report = made("h100-8", Size(rows, row_length, FOUR), mesh=mesh).report
    collectives = report["collectives"]
    gathered = sum(each["bytes"] for each in collectives if each["kind"] == "all-gather" and each["axes"] == ["fsdp"])
    weights = 2 * blocks(FOUR) + gathered_ahead(FOUR) + 2 * V * D
    assert gathered == pytest.approx(2 * weights / mesh.tensor, rel=0.01)
    kinds = {(each["kind"], *each["axes"]) for each in collectives if each["bytes"] > 0.01 * gathered}
    # Weights and gradients over fsdp; besides: positions over tensor, heads over context, gradients over replicas.
    extra = {
        "tensor": {("all-gather", "tensor"), ("reduce-scatter", "tensor")},
        "context": {("all-to-all", "context"), ("all-reduce", "context")},
        "data": {("all-reduce", "data")},
    }
    assert kinds == {("all-gather", "fsdp"), ("reduce-scatter", "fsdp")} | extra[next(iter(axes))[0]]


def test_a_gradient_of_replicas_is_summed_once_a_step_not_once_a_microbatch(model_folder: Path):
    pytest.importorskip("jax_cuda13_plugin", reason="the extra `plan` is not installed")
    topology = parse_topology("h100-8")
    config = TrainConfig(
        model=str(model_folder),
        batch=BatchConfig(16, microbatches=2),
        compute=ComputeConfig(remat="full", reduce_dtype="bfloat16"),
        mesh=MeshConfig(data=2, fsdp=4),
    )
    made = plan(config, topology, compile_devices(topology), PlanOptions("h100-8"))
    sums = [each for each in made.report["collectives"] if each["axes"] == ["data"]]
    assert sum(each["bytes"] for each in sums) == pytest.approx(4 * FOUR.num_params / 4, rel=0.01)


def test_a_tpu_sums_gradients_in_bfloat16_once_a_microbatch(tmp_path: Path):
    """Left to itself, XLA for TPU moves the sum out of the loop over microbatches and ends in an internal error."""
    pytest.importorskip("libtpu", reason="the extra `plan` is not installed")
    small = dataclasses.replace(
        FOUR, num_layers=2, embed_dim=256, mlp_dim=512, num_heads=2, num_kv_heads=2, vocab_size=1024
    )
    (tmp_path / "config.json").write_text(write_config(small, "bfloat16", TOKEN_IDS))
    topology = parse_topology("v5e-4")
    config = TrainConfig(
        model=str(tmp_path),
        data=DataConfig(row_length=256),
        batch=BatchConfig(16, microbatches=2),
        compute=ComputeConfig(remat="full", reduce_dtype="bfloat16"),
    )
    made = plan(config, topology, compile_devices(topology), PlanOptions("v5e-4"))
    reduced = [each for each in made.report["collectives"] if each["kind"] in ("reduce-scatter", "all-reduce")]
    assert sum(each["bytes"] for each in reduced) == pytest.approx(2 * 2 * small.num_params, rel=0.02)


def test_the_json_holds_what_was_promised(made, model_folder: Path, capsys):
    config = TrainConfig(model=str(model_folder), batch=BatchConfig(16), data=DataConfig(epochs=2))
    run(PlanOptions("h100-8", json=True, rows=1600, price=2.0), config, ["mine.py", "--rows", "1600"])
    report = json.loads(capsys.readouterr().out)
    assert report["fits"] is True
    assert {"arguments_bytes", "temporaries_bytes", "peak_bytes", "limit_bytes"} <= set(report["memory"])
    assert {"step_seconds", "tokens_per_second_per_device", "mfu"} <= set(report["predicted"])
    assert report["collectives"]
    assert report["flops"]["model"] > report["flops"]["model_causal"]
    training = report["training"]
    assert training["steps"] == 200
    seconds = 200 * report["predicted"]["step_seconds"] + report["start_up"]["seconds"]
    assert training["hours"] == pytest.approx(seconds / 3600)
    assert training["cost"] == pytest.approx(2.0 * training["device_hours"])
    assert report["start"] == "launch/train.sh mine.py --data.path FOLDER"
    assert report["checkpoint_bytes"] == pytest.approx(3 * 4 * FOUR.num_params, rel=1e-3), "weights and two moments"


@pytest.mark.parametrize(
    ("topology", "mesh", "share"),
    [
        ("v5e-8", MeshConfig(), 1),
        ("v5e-64", MeshConfig(), 1 / 16),
        ("v5e-64", MeshConfig(data=4), 1 / 4),
        ("v5e-64", MeshConfig(data=16), 1 / 2),  # four chips in a row are on two hosts, each of which has 2 x 2
        ("tpu7x-64", MeshConfig(), 1 / 8),
    ],
)
def test_a_host_holds_its_part_of_a_checkpoint_while_it_saves(topology, mesh, share, model_folder: Path):
    """Weights and two moments take 12 bytes per parameter. Only the norms are not divided."""
    pytest.importorskip("libtpu", reason="the extra `plan` is not installed")
    model, optimizer = build_model(str(model_folder), LoraConfig()), make_optimizer(OptimizerConfig(), 10)
    machine = parse_topology(topology)
    shardings = state_shardings(make_mesh(mesh, compile_devices(machine)), model, optimizer)
    state = abstract_state(model, optimizer, shardings)
    assert checkpoint_bytes(state) == pytest.approx(12 * FOUR.num_params, rel=1e-3)
    assert share_of_a_host(state) == pytest.approx(share * 12 * FOUR.num_params, rel=1e-3)
    facts = host_facts(state, None, machine)
    assert facts["total_bytes"] == facts["checkpoint_bytes"] + facts["process_bytes"]
    assert facts["process_bytes"] > 2**28, "Python with JAX"


def test_a_start_reads_at_the_given_rate_and_says_so_where_there_is_none():
    host = {"checkpoint_bytes": 20_000_000_000}
    known, unknown = start_facts(host, 60.0, 500.0), start_facts(host, 60.0, 0.0)
    assert known == {"compile_seconds": 60.0, "read_seconds": 40.0, "seconds": 100.0}
    assert tables.start_up({"start_up": known, "host": host}) == (
        "60 s compiling, as on this machine; 40 s reading 20.0 GB per host"
    )
    assert unknown["seconds"] == 60.0
    assert "not counted: reading 20.0 GB per host" in tables.start_up({"start_up": unknown, "host": host})


@pytest.mark.slow
def test_a_model_that_cudnn_cannot_compute_is_planned_with_plain_attention_and_its_cost(monkeypatch, capsys):
    pytest.importorskip("jax_cuda13_plugin", reason="the extra `plan` is not installed")
    capped = dataclasses.replace(SLIM, score_cap=50.0, window=300, layer_kinds=("window", "full") * 2)
    monkeypatch.setattr("asclepius_jax.plan.compile.build_model", lambda *_: build(capped))
    topology = parse_topology("h100-1")
    config = TrainConfig(data=DataConfig(row_length=T), batch=BatchConfig(16, 1), compute=ComputeConfig(remat="full"))
    report = plan(config, topology, compile_devices(topology), PlanOptions("h100-1")).report
    assert report["chosen"]["attention"] == "xla"
    tables.show(report)
    told = " ".join(capsys.readouterr().out.split())
    gib = 12 * 16 * capped.num_heads * T * T / GIB  # of 16 rows in one part
    assert "cannot cap attention scores, which the model caps at 50" in told
    assert f"all scores of a layer are in memory, about {gib:.1f} GiB per device" in told
    assert 0.5 < report["memory"]["temporaries_bytes"] / GIB / gib < 2


def test_the_search_writes_a_configuration_that_loads(model_folder: Path, tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip("jax_cuda13_plugin", reason="the extra `plan` is not installed")
    monkeypatch.setattr(search, "COMPILED", 2)  # five seconds each; and two are enough to choose from
    config = TrainConfig(model=str(model_folder), batch=BatchConfig(16), run_dir=str(tmp_path / "run"))
    run(PlanOptions("h100-8", json=True, search=True, out=str(tmp_path / "winner.py")), config, ["mine.py"])
    report = json.loads(capsys.readouterr().out)
    winner = load_config(str(tmp_path / "winner.py"))
    mesh = report["chosen"]["mesh"]
    assert (winner.mesh.data, winner.mesh.fsdp, winner.mesh.tensor, winner.mesh.context) == tuple(mesh.values())
    assert winner.batch == BatchConfig(16, report["chosen"]["microbatches"])
    assert winner.compute.remat == report["chosen"]["remat"]
    assert winner.model == str(model_folder)
    assert report["start"] == f"launch/train.sh {tmp_path / 'winner.py'} --data.path FOLDER"


def test_rows_that_a_kernel_cannot_take_are_refused_before_compiling(made):
    with pytest.raises(UserError, match=r"2000 is not a multiple of 128.*--row-length 2048"):
        made("v5e-16", Size(3, 2000, FOUR))


def test_slices_share_nothing_but_replicas(made):
    with pytest.raises(UserError, match=r"make mesh.data a multiple of 2"):
        made("v5e-16x2", Size(1, T, FOUR))


def test_the_flags_of_the_launch_script_are_those_of_a_plan(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
    set_flags_for_planning()
    assert os.environ["XLA_FLAGS"].startswith("--xla_gpu_enable_latency_hiding_scheduler=true ")
    assert os.environ["XLA_FLAGS"].endswith(" --mine=1")
    assert os.environ["LIBTPU_INIT_ARGS"].startswith("--xla_tpu_enable_async_collective_fusion=true ")


def test_a_loops_trips_are_found_where_xla_wrote_them():
    text = """HloModule m

%inside (p: s32[]) -> pred[] {
  %p = s32[] parameter(0)
  %limit = s32[] constant(7)
  ROOT %less = pred[] compare(%p, %limit), direction=LT
}

%condition (s: (s32[], f32[8])) -> pred[] {
  %s = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %done = pred[] fusion(%i), kind=kLoop, calls=%inside
}

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]) parameter(0)
  %x = f32[8]{0} get-tuple-element(%s), index=1
  %sum = f32[8]{0} all-reduce(%x), replica_groups=[2,2]<=[4], to_apply=%add
  ROOT %t = (s32[], f32[8]) tuple(%i, %sum)
}

ENTRY %main (a: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = (s32[], f32[8]) parameter(0)
  ROOT %loop = (s32[], f32[8]) while(%a), condition=%condition, body=%body
}
"""
    (found,) = hlo.collectives(text)
    assert (found.kind, found.bytes, found.count) == ("all-reduce", 32, 7)
    assert found.groups.tolist() == [[0, 1], [2, 3]]
    assert hlo.mesh_axes(found.groups, {"data": 2, "fsdp": 2}) == ("fsdp",)
