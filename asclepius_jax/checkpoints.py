"""Orbax step folders: parameters, optimizer state, step and the resolved configuration, saved and restored as one.

run/
  checkpoints/500/params, optimizer, meta    one finished step
  tokenizer/                                 what turns text into this model's ids
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from asclepius_jax.model.llama import Params
from asclepius_jax.model.variants import LlamaConfig, RopeScaling
from data_prep.records import UserError

STEPS = "checkpoints"
State = dict[str, Any]  # step, params, optimizer


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a step says of itself."""

    model: LlamaConfig
    tokenizer_hash: str
    prompt_template: str
    row_length: int
    phase: str  # "pretrain", "instruct", or "import" for weights from elsewhere
    config: dict[str, Any]  # the resolved TrainConfig; empty for an import
    data: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # of the packed folder's manifest, for the model card

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Meta":
        model = dict(raw["model"])
        if model["rope_scaling"] is not None:
            model["rope_scaling"] = RopeScaling(**model["rope_scaling"])
        return cls(**{**raw, "model": LlamaConfig(**model)})


class Checkpoints:
    """The steps of one run."""

    def __init__(self, run_dir: Path, keep: int | None = None):
        self.folder = run_dir / STEPS
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self.manager = ocp.CheckpointManager(self.folder.absolute(), options=options)

    def save(self, step: int, state: State, meta: Meta) -> None:
        """Start writing a step; training goes on while the bytes travel."""
        items = {"params": ocp.args.StandardSave(state["params"]), "meta": ocp.args.JsonSave(dataclasses.asdict(meta))}
        if "optimizer" in state:
            items["optimizer"] = ocp.args.StandardSave(state["optimizer"])
        self.manager.save(step, args=ocp.args.Composite(**items))

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def restore(self, step: int, abstract: State) -> State:
        """The state of a step, on the shardings that `abstract` names."""
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(abstract["params"]),
            optimizer=ocp.args.StandardRestore(abstract["optimizer"]),
        )
        restored = self.manager.restore(step, args=items)
        counter = jax.device_put(jnp.int32(step), abstract["step"].sharding)
        return {"step": counter, "params": restored["params"], "optimizer": restored["optimizer"]}

    def wait(self) -> None:
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.close()


def find_step(path: Path) -> tuple[Path, Path]:
    """(run folder, step folder) of a run folder's newest step, or of the step folder that is named."""
    if path.parent.name == STEPS and path.name.isdigit():
        run, steps = path.parent.parent, [path] if path.is_dir() else []
    else:
        run = path
        found = (path / STEPS).iterdir() if (path / STEPS).is_dir() else iter(())
        steps = sorted((p for p in found if p.name.isdigit()), key=lambda p: int(p.name))
    if not steps:
        raise UserError(f"{path} holds no checkpoint: name a run folder, or RUN/{STEPS}/STEP")
    return run, steps[-1]


def read_meta(step_folder: Path) -> Meta:
    path = step_folder / "meta" / "metadata"
    if not path.is_file():
        raise UserError(f"{step_folder} is not a finished asclepius checkpoint: {path.name} is missing")
    return Meta.from_json(json.loads(path.read_text()))


def restore_params(step_folder: Path, shapes: Params, shardings: Params) -> Params:
    """The parameters alone, on any mesh."""
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(step_folder.absolute() / "params", abstract)


def read_stored(step_folder: Path, name: str) -> np.ndarray:
    """One parameter, named as in "blocks.attention.q_DNH", on the host without a device."""
    base = f"file://{step_folder.absolute()}/params/"
    spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}
    return tensorstore.open(spec, open=True, read=True).result().read().result()


def check_model(meta: Meta, model: LlamaConfig, where: Path) -> None:
    """Refuse a checkpoint of another model, naming the fields that differ."""
    theirs, ours = dataclasses.asdict(meta.model), dataclasses.asdict(model)
    differing = [f"{key} {theirs[key]} there, {ours[key]} here" for key in ours if theirs[key] != ours[key]]
    if differing:
        raise UserError(f"{where} is another model: {'; '.join(differing)}")
