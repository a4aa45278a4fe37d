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
State = dict[str, Any]  # step, params, optimizer; where adapters train: adapters, and params are frozen


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
        items = {"meta": ocp.args.JsonSave(dataclasses.asdict(meta))}
        # Frozen weights lie where they were read from.
        for name in state.keys() - {"step", "params" if "adapters" in state else "adapters"}:
            items[name] = ocp.args.StandardSave(state[name])
        self.manager.save(step, args=ocp.args.Composite(**items))

    def close(self) -> None:
        self.manager.close()


def newest_step(run_dir: Path) -> Path | None:
    """The folder of a run's newest finished step; one that a kill left half-written has another name."""
    folder = run_dir / STEPS
    steps = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return max(steps, key=lambda path: int(path.name), default=None)


def find_step(path: Path) -> tuple[Path, Path]:
    """(run folder, step folder) of a run folder's newest step, or of the step folder that is named."""
    if path.parent.name == STEPS and path.name.isdigit() and path.is_dir():
        return path.parent.parent, path
    step = newest_step(path)
    if step is None:
        raise UserError(f"{path} holds no checkpoint: name a run folder, or RUN/{STEPS}/STEP")
    return path, step


def read_meta(step_folder: Path) -> Meta:
    path = step_folder / "meta" / "metadata"
    if not path.is_file():
        raise UserError(f"{step_folder} is not a finished asclepius checkpoint: {path.name} is missing")
    return Meta.from_json(json.loads(path.read_text()))


def restore_state(step_folder: Path, abstract: State) -> State:
    """The whole state of a step, on the shardings that `abstract` names."""
    items = {name: restore_item(step_folder, name, abstract[name]) for name in abstract if name != "step"}
    return {"step": jax.device_put(jnp.int32(int(step_folder.name)), abstract["step"].sharding), **items}


def restore_params(step_folder: Path, shapes: Params, shardings: Params) -> Params:
    """The parameters alone, on any mesh."""
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )
    return restore_item(step_folder, "params", abstract)


def restore_item(step_folder: Path, name: str, abstract: Any) -> Any:
    if not (step_folder / name / "_METADATA").is_file():
        raise UserError(f"{step_folder} holds no {name}: it is not a whole checkpoint, remove it to use the one before")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(step_folder.absolute() / name, abstract)
    except (ValueError, OSError) as error:  # a file of it is gone or cut short
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{step_folder}/{name} cannot be read: remove the step to use the one before ({reason})"
        ) from error


def read_stored(step_folder: Path, name: str, item: str = "params") -> np.ndarray:
    """One parameter, named as in "blocks.attention.q_DNH", on the host without a device."""
    base = f"file://{step_folder.absolute()}/{item}/"
    spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}
    return tensorstore.open(spec, open=True, read=True).result().read().result()


def check_model(meta: Meta, model: LlamaConfig, where: Path) -> None:
    """Refuse a checkpoint of another model, naming the fields that differ."""
    theirs, ours = dataclasses.asdict(meta.model), dataclasses.asdict(model)
    differing = [f"{key} {theirs[key]} there, {ours[key]} here" for key in ours if theirs[key] != ours[key]]
    if differing:
        raise UserError(f"{where} is another model: {'; '.join(differing)}")
