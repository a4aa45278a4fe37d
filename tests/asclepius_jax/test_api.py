"""The package as a library: the notebooks run, and a step built by hand is the trainer's own step."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asclepius_jax as asc
from asclepius_jax.config import LoraConfig, TrainConfig, load_config, shipped
from data_prep.contract.errors import UserError
from data_prep.contract.hub import is_hub_id
from tests.helpers.made_inputs import packed_notes
from tests.helpers.places import ROOT
from tests.helpers.training.small_run import losses_of

SAME_SHAPE = {"google/medgemma-27b-text-it": "gemma3_27b"}
CONFIGS = sorted(path.stem for path in shipped("configs").glob("*.py"))


def code_of(notebook: str) -> str:
    cells = json.loads((ROOT / "examples" / notebook).read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def run_notebook(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Everything that the notebook prints, run from top to bottom in the working directory."""
    exec(code_of(name), {})
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_notebooks_run_from_top_to_bottom(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])  # as on a CPU outside of tests
    shown = run_notebook("generate_notes.ipynb", capsys)
    assert "discharge summary" in shown.lower()
    shown = run_notebook("train_a_model.ipynb", capsys)
    losses = [float(line.split()[3]) for line in shown.splitlines() if line.startswith("update ")]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert (tmp_path / "notebook/model/config.json").is_file()


def test_a_step_built_by_hand_gives_the_losses_and_the_checkpoint_of_the_trainer(
    base: TrainConfig, unbroken: Path, tmp_path: Path
):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    step = asc.make_step(config, asc.build_model(config.model), asc.load_rows(config.data.path[0]))
    state, losses = step.init(), []
    for number in range(step.total_steps):
        state, metrics = step(state, step.batch(number))
        losses.append(float(metrics["loss"]))
    assert losses == list(losses_of(unbroken).values())
    run_dir = step.save(state, tmp_path / "by_hand")
    ours, theirs = asc.load_checkpoint(run_dir).params, asc.load_checkpoint(str(unbroken)).params
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert asc.train(dataclasses.replace(config, run_dir=str(run_dir))) == run_dir  # finished: nothing is left to do
    asc.export(run_dir, tmp_path / "exported")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_can_be_made_of_every_shipped_config_as_it_stands(name: str):
    config = load_config(name)
    if is_hub_id(config.model):  # whose config.json is on the hub: a size of the same shape
        config = dataclasses.replace(config, model=SAME_SHAPE[config.model])
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=""))  # the demo's may be missing
    step = asc.make_step(config, devices=jax.devices()[:4])  # its mesh has four
    assert step.config.batch.microbatches > 0
    assert step.config.compute.remat != "auto"
    state, metrics = jax.eval_shape(step.function, *step.abstract())
    assert metrics["loss"] == jax.ShapeDtypeStruct((), jnp.float32)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), step.abstract()[0])


def test_what_does_not_belong_together_is_refused(tmp_path: Path, small_tokenizer: Path):
    with pytest.raises(UserError, match=r"rank=4.*lora=config.lora"):
        asc.make_step(TrainConfig(model="tiny"), asc.build_model("tiny", LoraConfig(rank=4)))
    step = asc.make_step(TrainConfig(model="demo"))
    with pytest.raises(UserError, match=r"rows=load_rows"):
        step.batch(0)
    with pytest.raises(UserError, match=r"rows=load_rows"):
        step.save({}, tmp_path / "run")
    folder = packed_notes(tmp_path / "packed", small_tokenizer, 20, 32)
    assert asc.load_rows(str(folder)).row_length == 32
    with pytest.raises(UserError, match=r"rows of 32 tokens"):
        asc.load_rows(folder, 64)
    with pytest.raises(UserError, match=r"vocabulary size is 256"):
        asc.make_step(TrainConfig(model="tiny"), rows=asc.load_rows(folder))
    with pytest.raises(AttributeError, match=r"no attribute 'trian'"):
        asc.trian  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = "import asclepius_jax, sys; print({'jax', 'numpy', 'flax'} & set(sys.modules), *dir(asclepius_jax))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("set() ")
    assert set(shown.split()[1:]) == set(asc.__all__)
    assert all(getattr(asc, name) is not None for name in asc.__all__)
