"""Predicted speeds: what must hold of any machine, and how far published speeds are from them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from asclepius_jax.cost_model import calibrate
from asclepius_jax.cost_model.speed import (
    FITTED,
    INTERVAL,
    REMATS,
    Constants,
    Layout,
    communication,
    predict,
)
from asclepius_jax.cost_model.topologies import parse_topology
from asclepius_jax.model.sizes import VARIANTS

LLAMA = VARIANTS["llama2_7b"]
PUBLISHED = Path(__file__).parents[3] / "benchmarks/published_speeds.csv"
PLAIN = Layout(
    data=1, fsdp=8, tensor=1, context=1, rows_per_device=4, row_length=2048, microbatches=1, remat="attention"
)


ALL = dataclasses.replace(FITTED, links=1.0)


def speed(name: str, constants: Constants = FITTED, **changes) -> float:
    """Tokens a second of a device."""
    layout = dataclasses.replace(PLAIN, **changes)
    return predict(LLAMA, parse_topology(name), layout, constants).tokens_per_second_per_device


def test_a_step_is_the_sum_of_what_nothing_hides():
    topology = parse_topology("h100-64")
    prediction = predict(LLAMA, topology, dataclasses.replace(PLAIN, data=8, microbatches=2))
    hidden = ("fast_links", "slow_links", "host_link")
    shown = [seconds for name, seconds in prediction.parts.items() if name not in hidden]
    assert prediction.step_seconds == pytest.approx(sum(shown))
    assert all(seconds >= 0 for seconds in prediction.parts.values())
    assert prediction.parts["slow_links"] > 0
    tokens = 2 * 4 * 2048
    assert prediction.tokens_per_second_per_device == pytest.approx(tokens / prediction.step_seconds)
    # 6.6e9 parameters of matrices six times, and half of the scores; arXiv 2204.02311 counts all of them.
    flops = 6 * 6_607_077_376 + 6 * 32 * 4096 * 2048
    assert prediction.mfu_causal == pytest.approx(flops * tokens / prediction.step_seconds / 989e12, rel=1e-3)
    assert prediction.mfu > prediction.mfu_causal


def test_adapters_leave_out_a_third_of_the_products_and_all_gradients_of_the_base():
    topology = parse_topology("h100-8")
    whole, beside = (predict(LLAMA, topology, dataclasses.replace(PLAIN, adapters=n)) for n in (0, 40_000_000))
    matrices, count = 6_607_077_376, 40_000_000
    ratio = (4 * matrices + 6 * count) / (6 * matrices)
    assert beside.parts["matrices"] / whole.parts["matrices"] == pytest.approx(ratio, rel=1e-3)
    assert beside.parts["optimizer"] / whole.parts["optimizer"] == pytest.approx(count / LLAMA.num_params)
    assert beside.parts["attention"] == whole.parts["attention"]
    assert beside.parts["fast_links"] < 0.7 * whole.parts["fast_links"]


@pytest.mark.parametrize(("matmul", "share"), [("float8", 1 / 2), ("int8", 2 / 3)])
def test_eight_bits_halve_the_products_of_blocks_where_the_device_is_faster(matmul: str, share: float):
    """int8 leaves the gradients of the matrices, a third of the products, in bfloat16."""
    topology = parse_topology("h100-8")
    eight = dataclasses.replace(PLAIN, matmul=matmul, native=True, gathered_bytes=1.0)
    whole, faster = (predict(LLAMA, topology, layout) for layout in (PLAIN, eight))
    head, blocks = LLAMA.vocab_size * LLAMA.embed_dim, LLAMA.num_layers * LLAMA.block_matrices
    ratio = (head + share * blocks) / (head + blocks)
    assert faster.parts["matrices"] / whole.parts["matrices"] == pytest.approx(ratio, rel=1e-3)
    assert faster.parts["attention"] == whole.parts["attention"]
    assert faster.parts["fast_links"] < 0.8 * whole.parts["fast_links"]
    assert faster.parts["memory"] > whole.parts["memory"]  # activations are rounded
    assert faster.step_seconds < whole.step_seconds
    emulated = predict(LLAMA, topology, dataclasses.replace(eight, native=False))
    assert emulated.parts["matrices"] == whole.parts["matrices"]


def test_pairs_cost_one_more_forward_pass():
    """A third of the products, whatever is recomputed, and as many gathered weights as the compiled program moves:
    78.76 instead of 52.86 GB of LLaMA 7B on v5e-64 in two microbatches."""
    topology = parse_topology("h100-8")
    whole, pairs = (predict(LLAMA, topology, dataclasses.replace(PLAIN, first_pass=first)) for first in (False, True))
    scores = 4 * 32 * 4096 * LLAMA.mean_visible(2048)
    more = (whole.parts["matrices"] / 3) * (1 + 3 * scores / (6 * 6_607_077_376))
    assert pairs.parts["recomputation"] - whole.parts["recomputation"] == pytest.approx(more, rel=1e-3)
    layouts = [dataclasses.replace(PLAIN, first_pass=first, data=1, fsdp=8) for first in (False, True)]
    one, two = (communication(LLAMA, topology, layout, ALL, 1.0)["fast_links"] for layout in layouts)
    ends = 2 * 32000 * 4096
    gathered = 2 * PLAIN.microbatches * (2 * (LLAMA.num_params - ends) + ends)
    scattered = PLAIN.microbatches * PLAIN.fsdp_gradient_bytes * LLAMA.num_params
    first = 2 * PLAIN.microbatches * LLAMA.num_params
    assert two / one == pytest.approx(1 + first / (gathered + scattered), rel=1e-3)
    assert pairs.step_seconds > 1.2 * whole.step_seconds


@pytest.mark.parametrize("small", ["v5e-64", "v5p-128", "v6e-64"])
def test_twice_the_devices_of_one_slice_with_twice_the_batch_are_as_fast_each(small: str):
    generation, number = small.rsplit("-", 1)
    large = f"{generation}-{2 * int(number)}"
    count = parse_topology(small).count
    # A ring's length hardly matters: each device still sends every byte once.
    assert speed(large, fsdp=2 * count) == pytest.approx(speed(small, fsdp=count), rel=0.01)


def test_what_is_made_again_costs_time():
    order = ["none", "projections", "attention", "full"]
    speeds = [speed("h100-8", remat=remat) for remat in order]
    assert speeds == sorted(speeds, reverse=True)
    assert len(set(speeds)) == len(speeds)
    # Making all but the last product again is a quarter to a third more work.
    assert 1.15 < speeds[0] / speeds[-1] < 1.4
    assert speed("h100-8", remat="offload") <= speeds[-1]


def test_more_microbatches_cost_their_gathers_alone():
    topology = parse_topology("h100-8")
    once = predict(LLAMA, topology, PLAIN)
    four = predict(LLAMA, topology, dataclasses.replace(PLAIN, microbatches=4))
    for part in ("matrices", "attention", "recomputation", "memory", "fast_links"):
        assert four.parts[part] == pytest.approx(4 * once.parts[part]), part
    # The optimizer works once.
    assert four.parts["optimizer"] == once.parts["optimizer"]
    assert four.tokens_per_second_per_device > once.tokens_per_second_per_device
    # The same batch in one piece has its weights gathered once.
    whole = predict(LLAMA, topology, dataclasses.replace(PLAIN, rows_per_device=16))
    assert whole.parts["fast_links"] == pytest.approx(once.parts["fast_links"])
    assert whole.step_seconds < four.step_seconds


def test_weights_are_not_gathered_over_a_network_if_gradients_alone_can_cross_it():
    # One row is too little work to hide a gather behind.
    small = {"rows_per_device": 1, "microbatches": 8}
    assert speed("h100-64", data=8, fsdp=8, **small) > 1.05 * speed("h100-64", data=1, fsdp=64, **small)


def test_a_slower_network_slows_only_what_crosses_it():
    topology = parse_topology("h100-64")
    device = dataclasses.replace(topology.device, network_bandwidth=topology.device.network_bandwidth / 8)
    slow = dataclasses.replace(topology, device=device)
    layout = dataclasses.replace(PLAIN, data=8)
    assert predict(LLAMA, slow, layout).step_seconds > 1.2 * predict(LLAMA, topology, layout).step_seconds
    node = parse_topology("h100-8")
    assert predict(LLAMA, dataclasses.replace(node, device=device), PLAIN) == predict(LLAMA, node, PLAIN)


def test_tensor_and_context_keep_the_work_and_add_communication():
    whole = predict(LLAMA, parse_topology("h100-8"), PLAIN)
    for axis in ("tensor", "context"):
        split = dataclasses.replace(PLAIN, fsdp=2, rows_per_device=16, **{axis: 4})
        prediction = predict(LLAMA, parse_topology("h100-8"), split)
        assert prediction.parts["matrices"] == pytest.approx(whole.parts["matrices"])
        assert prediction.parts["exposed"] > whole.parts["exposed"]


@pytest.mark.parametrize("name", ["v4-64", "v5e-64", "v6e-64", "h100-64", "a6000-48g-64", "cpu-8"])
def test_no_run_is_more_efficient_than_the_products_it_is_made_of(name: str):
    topology = parse_topology(name)
    share = FITTED.tpu_matrices if topology.device.platform == "tpu" else FITTED.gpu_matrices
    for remat in REMATS:
        for rows in (1, 16, 256):
            layout = dataclasses.replace(PLAIN, fsdp=topology.count, rows_per_device=rows, remat=remat)
            assert 0 < predict(LLAMA, topology, layout).mfu_causal < share


@pytest.fixture(scope="module")
def published() -> list[calibrate.Row]:
    return calibrate.read_rows(PUBLISHED)


def test_published_speeds_are_predicted_from_other_trainers_and_generations(published):
    fitted = [row for row in published if not row.why_not]
    assert len(fitted) == 31
    assert len({row.family for row in fitted}) == 8
    alone = calibrate.families_left_out(fitted)
    ratios = np.array([row.measured / speed for row, speed in zip(fitted, alone, strict=True)])
    errors = np.abs(1 / ratios - 1)
    assert np.median(errors) <= 0.08, errors
    assert max(errors) <= 0.25, errors
    # What every plan says of itself.
    assert np.mean((INTERVAL[0] <= ratios) & (ratios <= INTERVAL[1])) >= 0.9


def test_every_row_that_is_not_fitted_says_why(published):
    reasons = {row.why_not for row in published if row.why_not}
    assert all(reason.startswith("no: ") for reason in reasons)
    assert any("MaxText" in reason for reason in reasons)  # the two that contradict each other are named


def test_the_stored_constants_are_those_of_a_fresh_fit(monkeypatch, capsys):
    assert calibrate.main([str(PUBLISHED)]) == 0
    assert "Left out: median error" in capsys.readouterr().out
    monkeypatch.setattr(calibrate, "FITTED", dataclasses.replace(FITTED, links=FITTED.links * 1.02))
    assert calibrate.main([str(PUBLISHED)]) == 1
    assert "speed.FITTED.links" in capsys.readouterr().err


def test_every_constant_is_a_share_or_a_multiple():
    assert 0 < FITTED.gpu_matrices < FITTED.tpu_matrices < 1
    assert 0 < FITTED.links < 1
    assert 0 < FITTED.overlap < 1
    assert FITTED.traffic > 1
