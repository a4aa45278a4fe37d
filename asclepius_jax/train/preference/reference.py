"""`asclepius reference`: the log-probabilities of packed answers under a reference model.

Preference tuning compares every answer with the model that it starts from. That model does not change, so its
log-probabilities are computed once, on any mesh, and stored with the rows.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from asclepius_jax.checkpoint.adapters import weight_checksums
from asclepius_jax.checkpoint.read import State
from asclepius_jax.config import TrainConfig, check_values
from asclepius_jax.config.sources import training_sources
from asclepius_jax.cost_model.choose import settle
from asclepius_jax.distributed.same_program import check_agreement, facts_of
from asclepius_jax.distributed.sharding import batch_sharding, check_layout, make_mesh, parallel_of, replicated
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import Model
from asclepius_jax.train.adapters import random_adapters
from asclepius_jax.train.batches import Batch, PackedRows, assemble
from asclepius_jax.train.choose_kernel import choose_kernel
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.setup import build_model, check_rows, most_segments
from asclepius_jax.train.start import start_params, with_local_copies, with_local_weights
from asclepius_jax.train.step import make_loss, shard_map, state_shardings, weights_of
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, writing_folder
from data_prep.contract.records import PackedRow, text_hash

# Entries of a manifest that describe one folder, and not its rows.
OF_FOLDER = ("schema", "kind", "files", "other_files", "inputs", "out", "rejected")


def reference(config: TrainConfig, out: str) -> None:
    """Write the rows of `config.data.path` again, with the log-probability of every answer under the initial weights.

    Adapters are as they start: without an effect, on the base as `config.lora` stores it.

    Raises:
        UserError: there are no pairs or weights, they do not fit one another, or `out` contains something else.
    """
    if not out:
        raise UserError("name the output folder with --out")
    check_values(config)
    config = with_local_weights(with_local_copies(config))
    check_agreement(facts_of(config))
    rows = open_pairs(config)
    if not (config.init.hf or config.init.checkpoint):
        raise UserError("there is no reference model: set it with --init.hf or --init.checkpoint")
    model = build_model(config.model, config.lora)
    check_rows(rows, config.data.row_length, model.config)
    mesh = make_mesh(config.mesh)
    check_layout(mesh, model.config, config.data.row_length, config.batch.global_batch)
    kernel = choose_kernel(config, mesh, model.config, most_segments(rows, []))
    config = settle(config, model.config, mesh, kernel)
    shardings = state_shardings(mesh, model, make_optimizer(config.optimizer, 1, config.lora))
    weights: State = {"params": start_params(config, model, rows, shardings["params"])}
    checksum = text_hash(*weight_checksums(weights["params"], model.shapes).values())
    if model.lora.rank:
        weights["adapters"] = random_adapters(model, config.lora.seed, shardings["adapters"], weights["params"])
    step = make_reference_step(config, model, shardings, mesh, kernel, rows.max_segments)
    computed = log_probabilities(rows, step, weights, config, mesh)
    facts = {"weights": Path(config.init.hf or config.init.checkpoint).name, "checksum": checksum}
    if jax.process_index() == 0:
        write_rows(rows, computed, Path(out), facts)
    else:
        for _ in computed:
            pass


def open_pairs(config: TrainConfig) -> PackedRows:
    sources = training_sources(config.data)
    if len(sources) != 1:
        raise UserError(f"data.path has {len(sources)} folders: name the one whose answers are to be compared")
    if read_manifest(Path(sources[0].path), "packed")["phase"] != "preference":
        raise UserError(f"{sources[0].path} has no pairs: name a folder that `asclepius pack` made of pairs")
    return PackedRows(Path(sources[0].path), config.data.row_length)


def make_reference_step(
    config: TrainConfig, model: Model, shardings: State, mesh: Mesh, kernel: Kernel, max_segments: int
) -> Any:
    """Make the jitted step (weights, batch) -> log-probability (rows, segments) of the loss tokens of each document."""
    loss = make_loss(config, model, kernel, parallel_of(mesh, config.compute.reduce_dtype))
    specs = jax.tree.map(lambda sharding: sharding.spec, weights_of(shardings))
    batch_spec = batch_sharding(mesh).spec

    def sums(weights: State, batch: Batch) -> jax.Array:
        _, losses_BT = loss(weights, batch, batch["loss_mask"])
        of_tokens_BT = -losses_BT * batch["loss_mask"]
        of_segments = jax.vmap(lambda values_T, ids_T: jax.ops.segment_sum(values_T, ids_T, max_segments + 1))
        return jax.lax.psum(of_segments(of_tokens_BT, batch["segment_ids"])[:, 1:], "context")

    spread = shard_map(sums, mesh, (specs, batch_spec), jax.sharding.PartitionSpec(batch_spec[0]))
    return jax.jit(spread, out_shardings=replicated(mesh))


def log_probabilities(
    rows: PackedRows, step: Any, weights: State, config: TrainConfig, mesh: Mesh
) -> Iterator[np.ndarray]:
    """The log-probabilities (segments,) of each row, in order. Every process computes all of them together."""
    size = max(1, config.batch.global_batch // config.batch.microbatches)
    for start in range(0, len(rows), size):
        given = [rows[min(start + place, len(rows) - 1)] for place in range(size)]  # the last batch repeats a row
        batch = assemble(given.__getitem__, size, rows.row_length, batch_sharding(mesh))
        found = np.asarray(jax.device_get(step(weights, batch)), np.float32)
        yield from found[: len(rows) - start]


def write_rows(rows: PackedRows, computed: Iterator[np.ndarray], out: Path, reference: dict[str, str]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    dtype, index = rows.manifest["token_dtype"], 0
    with writing_folder(out, "packed", {str(rows.folder): rows.content}) as folder:
        shutil.copytree(rows.folder / "tokenizer", folder.path / "tokenizer")
        for file in rows.manifest["files"]:
            with closing(ArrayRecordWriter(str(folder.path / file["name"]), "group_size:1")) as writer:
                for _ in range(file["records"]):
                    writer.write(with_reference(rows.stored(index), next(computed)).to_bytes(dtype))
                    index += 1
            folder.add_file(file["name"], file["records"])
        folder.facts = {name: value for name, value in rows.manifest.items() if name not in OF_FOLDER}
        folder.facts["reference"] = reference
    print(f"{out}: {index:,} rows with the log-probabilities under {reference['weights']}", flush=True)


def with_reference(row: PackedRow, log_probabilities: np.ndarray) -> PackedRow:
    return dataclasses.replace(row, reference=log_probabilities[: len(row.segment_lengths)])
