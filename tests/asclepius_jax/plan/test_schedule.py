"""How long a device waits for communication, on small programs whose times are known, and FLOPs of a real one."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest

from asclepius_jax.config import BatchConfig, ComputeConfig, DataConfig, TrainConfig
from asclepius_jax.cost_model.choose import layout_of
from asclepius_jax.cost_model.speed import token_flops
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.distributed.sharding import make_mesh
from asclepius_jax.model.huggingface.names import write_config
from asclepius_jax.model.sizes import VARIANTS
from asclepius_jax.plan import hlo
from asclepius_jax.plan.compile import PlanOptions, plan
from asclepius_jax.plan.schedule import Communication, Device, Rates, communication
from tests.helpers.made_inputs import TOKEN_IDS

# A gather takes 3 seconds, a sum 4; a product of 8 x 8 matrices takes 2, and memory is free.
SECONDS = {"all-gather": 3.0, "all-reduce": 4.0, "reduce-scatter": 2.5}
RATES = Rates(2 * 8**3 / 2.0, math.inf, (0.0, 0.0), lambda collective: SECONDS[collective.kind])

HEAD = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

"""
GROUPS = "replica_groups={{0,1}}"
PRODUCT = "%{} = f32[8,8]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}"


def program(*lines: str, before: str = "") -> str:
    body = "\n  ".join(lines)
    return (
        f"{HEAD}{before}ENTRY %main (x: f32[8,8]) -> f32[8,8] {{\n  %x = f32[8,8]{{1,0}} parameter(0)\n  {body}\n}}\n"
    )


def start(name: str, operand: str = "x") -> str:
    kind = f"(f32[8,8]{{1,0}}, f32[16,8]{{1,0}}) all-gather-start(%{operand}), channel_id=1, {GROUPS}, dimensions={{0}}"
    return f"%{name} = {kind}"


def done(name: str) -> str:
    return f"%{name}.done = f32[16,8]{{1,0}} all-gather-done(%{name})"


def waits(text: str, rates: Rates = RATES) -> dict[str, tuple[float, float]]:
    """Seconds, and seconds of waiting, by kind."""
    found: dict[str, tuple[float, float]] = {}
    for each in communication(text, rates):
        assert isinstance(each, Communication)
        seconds, exposed = found.get(each.collective.kind, (0.0, 0.0))
        found[each.collective.kind] = seconds + each.seconds, exposed + each.exposed
    return found


def test_what_runs_between_start_and_done_hides_a_collective():
    assert waits(program(start("g"), PRODUCT.format("p"), done("g"))) == {"all-gather": (3.0, 1.0)}
    both = [PRODUCT.format("p"), PRODUCT.format("q")]
    assert waits(program(start("g"), *both, done("g"))) == {"all-gather": (3.0, 0.0)}
    assert waits(program(PRODUCT.format("p"), start("g"), done("g"), PRODUCT.format("q"))) == {"all-gather": (3.0, 3.0)}


def test_collectives_share_the_links_one_after_another():
    text = program(start("g"), start("h"), PRODUCT.format("p"), done("g"), PRODUCT.format("q"), done("h"))
    # g ends at 3, one second after p; q runs from 3 to 5 and h to 6.
    assert waits(text) == {"all-gather": (6.0, 2.0)}


def test_a_collective_without_a_start_is_waited_for():
    line = f"%g = f32[16,8]{{1,0}} all-gather(%x), channel_id=1, {GROUPS}, dimensions={{0}}"
    assert waits(program(PRODUCT.format("p"), line, PRODUCT.format("q"))) == {"all-gather": (3.0, 3.0)}


def test_a_loop_waits_in_every_trip():
    body = f"""%body (x: f32[8,8]) -> f32[8,8] {{
  %x = f32[8,8]{{1,0}} parameter(0)
  {start("g")}
  {PRODUCT.format("p")}
  {done("g")}
}}

"""
    loop = '%w = f32[8,8] while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}'
    assert waits(program(loop, before=body)) == {"all-gather": (15.0, 5.0)}


CHAINED = """%begin (x: f32[8,8]) -> (f32[8,8], f32[16,8]) {
  %x.1 = f32[8,8]{1,0} parameter(0)
  %g.1 = f32[16,8]{1,0} all-gather(%x.1), channel_id=7, GROUPS, dimensions={0}, frontend_attributes={chain_id="3"}, \
backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
  ROOT %c.1 = (f32[8,8]{1,0}, f32[16,8]{1,0}) custom-call(%g.1), custom_call_target="AsyncCollectiveStart"
}

%meanwhile (x: f32[8,8]) -> f32[8,8] {
  %x.2 = f32[8,8]{1,0} parameter(0)
  %p.2 = f32[8,8]{1,0} dot(%x.2, %x.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %g.2 = f32[16,8]{1,0} all-gather(%x.2), channel_id=7, GROUPS, dimensions={0}, frontend_attributes={chain_id="3"}, \
backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
  ROOT %t.2 = (f32[8,8]{1,0}, f32[16,8]{1,0}) tuple(%p.2, %g.2)
}

%end (x: f32[8,8]) -> f32[16,8] {
  %x.3 = f32[8,8]{1,0} parameter(0)
  %g.3 = f32[16,8]{1,0} all-gather(%x.3), channel_id=7, GROUPS, dimensions={0}, frontend_attributes={chain_id="3"}, \
backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
  ROOT %c.3 = f32[16,8]{1,0} custom-call(%g.3), custom_call_target="AsyncCollectiveDone"
}

""".replace("GROUPS", GROUPS)
BEGIN = "%b = (f32[8,8]{1,0}, f32[16,8]{1,0}) fusion(%x), kind=kCustom, calls=%begin"
MEANWHILE = "%m = (f32[8,8]{1,0}, f32[16,8]{1,0}) fusion(%x), kind=kOutput, calls=%meanwhile"
END = "%e = f32[16,8]{1,0} fusion(%x), kind=kCustom, calls=%end"


def test_a_tpu_gathers_inside_of_the_products_that_repeat_the_collective():
    """And not inside of others, although these lie between start and done."""
    assert waits(program(BEGIN, MEANWHILE, END, before=CHAINED)) == {"all-gather": (3.0, 1.0)}
    assert waits(program(BEGIN, MEANWHILE, PRODUCT.format("p"), END, before=CHAINED)) == {"all-gather": (3.0, 1.0)}
    assert waits(program(BEGIN, PRODUCT.format("p"), END, before=CHAINED)) == {"all-gather": (3.0, 3.0)}


def test_a_sparse_core_gathers_beside_the_products_until_its_call_is_done():
    before = f"""%gathers.1 (x: f32[8,8]) -> f32[16,8] {{
  %x.1 = f32[8,8]{{1,0}} parameter(0)
  ROOT %g.1 = f32[16,8]{{1,0}} all-gather(%x.1), {GROUPS}, dimensions={{0}}
}}

"""
    begin = '%s = ((f32[8,8]{1,0}), f32[16,8]{1,0}, u32[]) call-start(%x), async_execution_thread="sparsecore", '
    begin += "to_apply=%gathers.1"
    end = "%d = f32[16,8]{1,0} call-done(%s)"
    assert waits(program(begin, PRODUCT.format("p"), end, before=before)) == {"all-gather": (3.0, 1.0)}
    assert waits(program(begin, PRODUCT.format("p"), PRODUCT.format("q"), end, before=before)) == {
        "all-gather": (3.0, 0.0)
    }
    assert waits(program(begin, end, before=before)) == {"all-gather": (3.0, 3.0)}


def test_a_tpu_that_slices_a_sum_at_once_scatters_it():
    before = f"""%all-reduce-scatter.1 (x: f32[8,8]) -> f32[4,8] {{
  %x.1 = f32[8,8]{{1,0}} parameter(0)
  %sum.1 = f32[8,8]{{1,0}} all-reduce(%x.1), {GROUPS}, to_apply=%add
  ROOT %slice.1 = f32[4,8]{{1,0}} slice(%sum.1), slice={{[0:4], [0:8]}}
}}

"""
    text = program("%r = f32[4,8]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1", before=before)
    assert waits(text) == {"reduce-scatter": (2.5, 2.5)}
    assert [(each.kind, each.bytes) for each in hlo.collectives(text)] == [("reduce-scatter", 256)]


BY_BYTES = dataclasses.replace(RATES, products=math.inf, memory=1.0)


def seconds(*lines: str, rates: Rates, before: str = "") -> float:
    text, entry = hlo.parse(program(*lines, before=before))
    return Device(text, rates).run(entry, 1)


def test_a_product_has_two_flops_for_every_multiplication():
    by_flops = dataclasses.replace(RATES, products=1.0)
    given = ["%a = bf16[5,6,7]{2,1,0} parameter(1)", "%b = bf16[5,7,3]{2,1,0} parameter(2)"]
    batched = "lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}"
    product = f"%c = bf16[5,6,3]{{2,1,0}} dot(%a, %b), {batched}"
    assert seconds(*given, product, rates=by_flops) == pytest.approx(2 * 5 * 6 * 7 * 3)
    # Heads and their width are contracted together, as a TPU writes it.
    given = ["%a = bf16[2,9,4,8]{3,2,1,0} parameter(1)", "%b = bf16[16,4,8,1]{2,1,0,3} parameter(2)"]
    product = "%c = f32[2,9,16,1]{2,1,3,0} convolution(%a, %b), window={size=1x4}, dim_labels=0b1f_o1i0->0bf1"
    assert seconds(*given, product, rates=by_flops) == pytest.approx(2 * 2 * 9 * 16 * 4 * 8)


def test_only_what_moves_counts_as_memory():
    """A slice of stacked weights, a change in place, and what stays on the chip."""
    stacked = "%w = f32[32,8,8]{2,1,0} parameter(1)"
    inside = """%slice (w: f32[32,8,8], i: s32[]) -> f32[8,8] {
  %w.1 = f32[32,8,8]{2,1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  ROOT %s.1 = f32[1,8,8]{2,1,0} dynamic-slice(%w.1, %i.1), dynamic_slice_sizes={1,8,8}
}

%update (w: f32[32,8,8], x: f32[1,8,8], i: s32[]) -> f32[32,8,8] {
  %w.2 = f32[32,8,8]{2,1,0} parameter(0)
  %x.2 = f32[1,8,8]{2,1,0} parameter(1)
  %i.2 = s32[] parameter(2)
  ROOT %u.2 = f32[32,8,8]{2,1,0} dynamic-update-slice(%w.2, %x.2, %i.2)
}

"""
    index = "%i = s32[] constant(3)"
    one = 8 * 8 * 4
    sliced = "%s = f32[1,8,8]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%slice"
    assert seconds(stacked, index, sliced, rates=BY_BYTES, before=inside) == 2 * one + 4
    updated = "%u = f32[32,8,8]{2,1,0} fusion(%w, %s, %i), kind=kLoop, calls=%update"
    both = seconds(stacked, index, sliced, updated, rates=BY_BYTES, before=inside)
    assert both == (2 * one + 4) + (2 * one + 4)
    ordered = "%a = (f32[8,8]{1,0}, token[]) negate(%x)"  # a token orders instructions and is no data
    assert seconds(ordered, rates=BY_BYTES) == 2 * one
    near = "%n = f32[8,8]{1,0:T(8,128)S(1)} negate(%x)"
    assert seconds(near, rates=BY_BYTES) == one
    assert seconds(near.replace("S(1)", ""), rates=BY_BYTES) == 2 * one


NOT_AHEAD = """
import dataclasses
from asclepius_jax.train import step
whole = step.parallel_of
step.parallel_of = lambda *given: dataclasses.replace(whole(*given), ahead=False)
"""


def test_a_gpu_waits_less_for_weights_that_are_gathered_during_the_layer_before():
    """7B on 64 H100s, in processes of their own, as XLA reads its flags once."""
    pytest.importorskip("jax_cuda13_plugin", reason="the extra `plan` is not installed")

    def waiting(before: str) -> float:
        code = f"{before}\nfrom asclepius_jax.cli import main; main()"
        command = [sys.executable, "-c", code, "plan", "pretrain_7b", "--topology=h100-64", "--json"]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return sum(each["exposed_seconds"] for each in told["collectives"] if each["kind"] == "all-gather")

    # 0.012 to 0.030 s with jax 0.10, 0.060 to 0.067 with jax 0.12, whose scheduler hides less of both.
    assert waiting("") < 0.95 * waiting(NOT_AHEAD)


@pytest.mark.parametrize("matmul", ["bfloat16", "float8"])
def test_the_products_of_a_compiled_step_are_those_of_the_cost_model(matmul, tmp_path):
    """Forward pass, recomputation and backward pass of four layers and the loss, read from the text of the program.

    Products in eight bits count half, so that none of the blocks' may be in bfloat16.
    """
    pytest.importorskip("jax_cuda13_plugin", reason="the extra `plan` is not installed")
    model = dataclasses.replace(VARIANTS["llama2_7b"], num_layers=4, embed_dim=512, mlp_dim=1536, num_heads=4,
                                num_kv_heads=2, head_dim=128, vocab_size=4096)  # fmt: skip
    (tmp_path / "config.json").write_text(write_config(model, "bfloat16", TOKEN_IDS))
    topology = parse_topology("h100-8")
    devices = compile_devices(topology)
    config = TrainConfig(
        model=str(tmp_path),
        data=DataConfig(row_length=1024),
        batch=BatchConfig(32, 2),
        compute=ComputeConfig(remat="full", matmul=matmul),
    )
    made = plan(config, topology, devices, PlanOptions("h100-8"))
    layout = layout_of(made.config, make_mesh(config.mesh, devices), model)
    flops = token_flops(model, layout)
    scores = flops["attention"] / 3.5
    program_of, entry = hlo.parse(made.compiled.as_text())
    counted = Device(program_of, Rates(1.0, math.inf, (0.0, 0.0), lambda _: 0.0)).run(entry, 1)
    expected = layout.microbatches * layout.tokens * (flops["matrices"] + flops["recomputation"] - scores)
    assert counted == pytest.approx(expected, rel=1e-6)
    gathered = sum(each["bytes"] for each in made.report["collectives"] if each["kind"] == "all-gather")
    ends = 2 * model.vocab_size * model.embed_dim
    blocks = model.num_params - ends
    # The loop over four layers gathers the queries', keys' and values' matrices ahead, those of the first before it.
    first = model.embed_dim * model.head_dim * (model.num_heads + 2 * model.num_kv_heads)
    each = layout.gathered_bytes * (2 * blocks + first) + 2 * ends
    assert gathered == pytest.approx(layout.microbatches * each, rel=0.01)
    assert layout.gathered_bytes == (1 if matmul == "float8" else 2)
    for each in made.report["collectives"]:
        assert 0 <= each["exposed_seconds"] <= each["seconds"] * (1 + 1e-9)
    assert made.prediction.parts["exposed"] == sum(each["exposed_seconds"] for each in made.report["collectives"])
