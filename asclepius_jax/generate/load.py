"""Models in memory, ready to generate text: from a checkpoint, or from a Hugging Face folder."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from asclepius_jax.checkpoint.adapters import whole_params
from asclepius_jax.checkpoint.read import of_newest, read_meta
from asclepius_jax.config import MeshConfig, divisors
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.generate.programs import DType, compute_shapes
from asclepius_jax.model.decoder import Model, Params, build
from asclepius_jax.model.huggingface.model_config import read_config
from asclepius_jax.model.huggingface.names import load_params
from asclepius_jax.model.sizes import DecoderConfig
from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer import JsonTokenizer

# Part of a device's memory that weights may take. More would leave so few slots that reading the weights dominates.
PART_FOR_WEIGHTS = 0.25


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
    return of_newest(Path(path), functools.partial(load_step, mesh_of=lambda _: make_mesh(mesh or MeshConfig())))


def load_checkpoint_to_decode(path: Path, mesh: MeshConfig | None = None) -> Checkpoint:
    """Load a checkpoint on a mesh, by default the one that `decoding_mesh` chooses."""
    return of_newest(path, functools.partial(load_step, mesh_of=chosen(mesh)))


def load_step(step_folder: Path, mesh_of: Callable[[DecoderConfig], Mesh]) -> Checkpoint:
    run_dir, meta = step_folder.parent.parent, read_meta(step_folder)
    tokenizer = JsonTokenizer(run_dir / "tokenizer")
    if tokenizer.hash != meta.tokenizer_hash:
        raise UserError(
            f"{run_dir}/tokenizer is not the tokenizer that {step_folder} was trained with: restore the original folder"
        )
    model = build(meta.model)
    params = whole_params(step_folder, model, param_shardings(mesh_of(meta.model), model))
    return Checkpoint(model, params, tokenizer)


def chosen(mesh: MeshConfig | None) -> Callable[[DecoderConfig], Mesh]:
    return decoding_mesh if mesh in (None, MeshConfig()) else lambda _: make_mesh(mesh)


def load_folder(folder: Path, dtype: DType, mesh: MeshConfig | None = None) -> tuple[Model, Params]:
    """A Hugging Face folder's model, with its matrices in the type of the computation, on a mesh as above.

    Raises FolderError for a family or a file that cannot be read.
    """
    model = build(read_config(folder))
    shapes = compute_shapes(model.shapes, dtype)
    shardings = param_shardings(chosen(mesh)(model.config), model)
    return model, load_params(folder, model._replace(shapes=shapes), shardings)


def decoding_mesh(
    model: DecoderConfig, devices: list[jax.Device] | None = None, limit_bytes: float | None = None
) -> Mesh:
    """The mesh for decoding many answers: as many replicas of the model as its weights in bfloat16 leave room for.

    A replica is split over the fewest devices of `tensor` whose memory holds it, and over `fsdp` where the heads allow
    no more. On CPUs it is one device: they share their memory and cores. `limit_bytes` is the memory of a device, by
    default as it reports it.
    """
    devices = jax.local_devices() if devices is None else devices
    if devices[0].platform == "cpu":
        return make_mesh(MeshConfig(1, 1), devices[:1])
    limit = limit_bytes or (devices[0].memory_stats() or {}).get("bytes_limit", math.inf)
    room = PART_FOR_WEIGHTS * limit
    counts = [n for n in divisors(len(devices)) if all(size % n == 0 for size in split_by_tensor(model))]
    tensor = next((n for n in counts if 2 * model.num_params / n <= room), max(counts))
    parts = [n for n in divisors(len(devices) // tensor) if model.embed_dim % n == 0]
    fsdp = next((n for n in parts if 2 * model.num_params / (tensor * n) <= room), max(parts))
    return make_mesh(MeshConfig(len(devices) // (tensor * fsdp), fsdp, tensor), devices)


def split_by_tensor(model: DecoderConfig) -> tuple[int, ...]:
    return model.num_heads, model.num_kv_heads, model.mlp_dim, model.table_rows
