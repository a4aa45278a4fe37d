"""The plan of answering: what the compiled programs need, and what follows from bandwidth."""

import dataclasses
import json

import pytest

from asclepius_jax.config import load_config
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.generate.load import decoding_mesh
from asclepius_jax.generate.replica import parts_of
from asclepius_jax.plan.command import run
from asclepius_jax.plan.compile import PlanOptions
from asclepius_jax.plan.decode import compile_decode, decoding_of, plan_decode
from asclepius_jax.train.setup import build_model
from data_prep.contract.errors import UserError

GIB = 2**30


def instruct(model: str):
    return dataclasses.replace(load_config("instruct_7b"), model=model)


@pytest.mark.parametrize(("topology", "model"), [("v5e-4", "llama3_8b"), ("h100-1", "llama3_8b")])
def test_the_compiled_programs_need_what_is_planned(topology: str, model: str):
    """Weights are there once, in their compute type, beside the cache: no copy of either."""
    parsed = parse_topology(topology)
    devices, limit = compile_devices(parsed), parsed.device.limit_bytes
    built = build_model(model, instruct(model).lora)
    mesh = parts_of(decoding_mesh(built.config, devices, limit))[0]
    decoding = decoding_of(built.config, mesh, 2048)
    used = compile_decode(built, mesh, decoding, 16)[0].memory_analysis()
    # The table of tokens and the norms' scales in float32 add little.
    assert used.argument_size_in_bytes == pytest.approx(decoding.weight_bytes + 16 * decoding.slot_bytes(), rel=0.02)
    assert used.temp_size_in_bytes < 0.05 * decoding.weight_bytes


@pytest.mark.slow
def test_slots_fill_the_memory_and_more_slots_give_more_tokens():
    topology = parse_topology("v5e-8")
    report = plan_decode(instruct("llama3_8b"), topology, compile_devices(topology), 2048)
    assert report["fits"]
    assert (report["mesh"]["data"], report["mesh"]["tensor"]) == (2, 4)
    memory = report["memory"]
    assert 0.9 * memory["limit_bytes"] < memory["peak_bytes"] <= memory["limit_bytes"]
    rates = [row["tokens_per_second"] for row in report["speed"]]
    assert rates == sorted(rates)
    # One slot reads 4 GB of weights per step at 819 GB/s, on two replicas.
    assert rates[0] == pytest.approx(2 * 819e9 / (16.06e9 / 4), rel=0.03)


def test_a_model_that_does_not_fit_has_no_slots(capsys):
    options = PlanOptions("v5e-1", decode=2048)
    run(options, instruct("llama2_13b"), [])
    assert "does not fit" in capsys.readouterr().out
    run(dataclasses.replace(options, json=True), instruct("llama2_13b"), [])
    assert json.loads(capsys.readouterr().out)["slots"] == 0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"decode": 1}, "--decode 1: must be 2 to 4096"),
        ({"decode": 5000}, "--decode 5000: must be 2 to 4096"),
        ({"search": True}, "omit --search"),
        ({"save": "x"}, "omit --save"),
    ],
)
def test_what_cannot_be_planned_is_refused(changed: dict, told: str):
    with pytest.raises(UserError, match=told):
        run(dataclasses.replace(PlanOptions("v5e-1", decode=2048), **changed), instruct("llama2_7b"), [])
