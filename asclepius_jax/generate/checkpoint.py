"""A trained model in memory, ready to generate text."""

import functools
from pathlib import Path
from typing import NamedTuple

from asclepius_jax.checkpoint.adapters import whole_params
from asclepius_jax.checkpoint.read import of_newest, read_meta
from asclepius_jax.config import MeshConfig
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.model.decoder import Model, Params, build
from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer import JsonTokenizer


class Checkpoint(NamedTuple):
    """A checkpoint in memory. `params` is a nested dict of arrays, adapters merged into their base."""

    model: Model
    params: Params
    tokenizer: JsonTokenizer


def load_checkpoint(path: str | Path, mesh: MeshConfig | None = None) -> Checkpoint:
    """Load a checkpoint's model, parameters and tokenizer.

    Args:
        path: a run folder (its newest step), or RUN/checkpoints/STEP.
        mesh: devices along each axis; None shards the parameters over all devices.

    Raises:
        UserError: there is no complete checkpoint, its checksums do not match, or its tokenizer was replaced.
    """
    return of_newest(Path(path), functools.partial(load_step, mesh=mesh or MeshConfig()))


def load_step(step_folder: Path, mesh: MeshConfig) -> Checkpoint:
    run_dir, meta = step_folder.parent.parent, read_meta(step_folder)
    tokenizer = JsonTokenizer(run_dir / "tokenizer")
    if tokenizer.hash != meta.tokenizer_hash:
        raise UserError(
            f"{run_dir}/tokenizer is not the tokenizer that {step_folder} was trained with: restore the original folder"
        )
    model = build(meta.model)
    params = whole_params(step_folder, model, param_shardings(make_mesh(mesh), model))
    return Checkpoint(model, params, tokenizer)
