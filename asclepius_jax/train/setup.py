"""Setup of a run from its configuration, for training and for notebooks: rows, model and training step."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from asclepius_jax.checkpoint.adapters import adapted, base_checksums, lora_from, weight_checksums
from asclepius_jax.checkpoint.read import Meta, State, find_step
from asclepius_jax.checkpoint.write import Saver
from asclepius_jax.config import LoraConfig, TrainConfig, check_values
from asclepius_jax.config.schema import with_learning_rate
from asclepius_jax.config.sources import held_out_sources, training_sources
from asclepius_jax.cost_model.choose import settle
from asclepius_jax.distributed.sharding import batch_parts, batch_sharding, check_layout, make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import Model, build
from asclepius_jax.model.sizes import DecoderConfig
from asclepius_jax.train.batches import Batch, PackedRows, Rows, TrainBatches
from asclepius_jax.train.choose_kernel import TYPICAL_SEGMENTS, choose_kernel, fallbacks
from asclepius_jax.train.compiled_step import load_program, program_facts
from asclepius_jax.train.mixture import MixedRows, open_rows
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.start import (
    branch_step,
    check_tokenizer,
    initial_state,
    lock_of_run,
    recorded,
    resolve_model,
    with_local_weights,
    write_run_folder,
)
from asclepius_jax.train.step import abstract_batch, abstract_state, make_train_step, state_shardings
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.objects import is_bucket_url
from data_prep.contract.tokenizer import JsonTokenizer, pieces_of_texts

DATA_FACTS = ("phase", "rows", "tokens", "loss_tokens", "documents", "packing_efficiency", "licences", "sources")
OPTIONAL_FACTS = ("mixture", "pairs", "reference")
FEWEST_STEPS = 10  # the first of them is warmup
STEPS_WITHOUT_ROWS = 1000  # length of the learning-rate schedule if the number of rows is unknown


def load_rows(path: str | Path, row_length: int = 0) -> PackedRows:
    """Open a folder written by `asclepius pack`.

    `rows[i]` is a dict of NumPy arrays of shape (row_length,): int32 `tokens`, `targets`, `positions` and
    `segment_ids`, and float32 `loss_mask`. Every file is compared with its checksum in the manifest.

    Args:
        path: the packed folder.
        row_length: tokens per row that the caller expects; 0 accepts the folder's own.

    Raises:
        UserError: the folder is unfinished or damaged, or was packed to another row length.
    """
    return PackedRows(Path(path), row_length)


def build_model(name: str | Path = "llama2_7b", lora: LoraConfig | None = None) -> Model:
    """Describe a model without allocating its parameters.

    `model.config` holds its dimensions; `model.shapes` is a nested dict of `jax.ShapeDtypeStruct`, one per parameter.

    Args:
        name: a size by name (`llama2_7b`, `smollm2_135m`, `demo`, ...), a Hugging Face folder, or a hub id.
        lora: settings of low-rank adapters; None or rank 0 trains every parameter.

    Raises:
        UserError: the name is unknown, or config.json describes a model that this package does not compute.
    """
    return adapted(build(resolve_model(str(name))), lora or LoraConfig())


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A jitted training step and everything that it was made from.

    `state, metrics = step(state, batch)` applies one update. The state that goes in is donated: do not use it again.
    `metrics` holds scalars on the device: `loss` (nats per loss-bearing token), `grad_norm`, `learning_rate`,
    `loss_tokens`, and `skipped` (true where loss, gradient or update was not finite, and nothing was updated).
    """

    config: TrainConfig
    """The configuration with microbatches and remat chosen."""
    model: Model
    mesh: Mesh
    kernel: Kernel
    optimizer: optax.GradientTransformation
    shardings: State
    total_steps: int
    rows: Rows | None
    batches: TrainBatches | None
    function: Any

    def __call__(self, state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        return self.function(state, batch)

    def init(self) -> State:
        """State before the first update, on the mesh: `step`, `params`, `optimizer`, and `adapters` where they train.

        Parameters come from `config.init`: a checkpoint, a Hugging Face folder or hub id, or random numbers.

        Raises:
            UserError: the weights do not fit the model or the tokenizer of the rows.
        """
        config = with_local_weights(self.config)
        return initial_state(config, self.model, self.rows, self.optimizer, self.shardings)

    def batch(self, number: int) -> Batch:
        """Global batch of step `number`, counted from 0: arrays of shape (global_batch, row_length) on the mesh.

        It depends on the rows, `config.data.seed` and `number`, and on nothing else.

        Raises:
            UserError: the step was made without rows.
        """
        if self.batches is None:
            raise UserError("this step has no rows to read: pass rows=load_rows(FOLDER) to make_step")
        return self.batches[number]

    def save(self, state: State, run_dir: str | Path) -> Path:
        """Write a checkpoint of `state` into a run folder, which `export`, `generate` and `train` then read.

        Raises:
            UserError: the step was made without rows (the checkpoint carries their tokenizer), the folder is in use by
                another process, or the disk is full.
        """
        if self.rows is None:
            raise UserError("a checkpoint carries the tokenizer of its rows: pass rows=load_rows(FOLDER) to make_step")
        folder = Path(run_dir)
        with lock_of_run(folder):
            saver = Saver(folder, self.config.checkpoint)
            write_run_folder(folder, self.config, self.rows)
            saver.save(int(state["step"]), state, describe(self.config, self.model, self.rows, state))
            saver.finish(last=True)
        return folder

    def program(self) -> Any:
        """The function, or what `compute.program` names in its place: the step as `asclepius plan --save` compiled it.

        Raises:
            UserError: the file is missing, damaged, or was compiled for another run or by another version.
        """
        path = self.config.compute.program
        if not path:
            return self.function
        facts = program_facts(self.config, self.model.config, self.mesh, self.kernel, self.total_steps)
        return load_program(Path(path), facts, self.function, *self.abstract(), mesh=self.mesh)

    def abstract(self) -> tuple[State, Batch]:
        """Shapes and shardings of the arguments, for `step.function.lower(*step.abstract())`: nothing is allocated."""
        return abstract_state(self.model, self.optimizer, self.shardings), abstract_batch(self.config, self.mesh)


def make_step(
    config: TrainConfig | None = None,
    model: Model | None = None,
    rows: Rows | None = None,
    held_out: Sequence[PackedRows] = (),
    devices: list[jax.Device] | None = None,
    quiet: bool = True,
) -> TrainStep:
    """Build the training step of a configuration; nothing is compiled or allocated yet.

    Args:
        config: settings of the run. What it leaves open (`batch.microbatches` 0, `compute.remat` "auto") is chosen to
            be the fastest that fits the devices.
        model: from `build_model`; None builds `config.model` with `config.lora`.
        rows: from `load_rows`; they decide row length, number of steps and attention kernel. None opens
            `config.data.path`, or, where that is empty, makes a step of `config.data.row_length` without data.
        held_out: sets of rows for evaluation, which the attention kernel must be able to read as well.
        devices: devices of the mesh; None takes all.
        quiet: do not print the number of updates, and which microbatches and remat were chosen.

    Raises:
        UserError: the settings contradict one another, the model, the rows or the devices, or the rows give fewer than
            ten updates and `few_steps` is not set.
    """
    config = with_learning_rate(config or TrainConfig())
    if rows is None and config.data.path:
        rows = open_rows(config.data)
    elif isinstance(rows, PackedRows):
        named = [source.path for source in training_sources(config.data)] == [str(rows.folder)]
        path = config.data.path if named else (str(rows.folder),)
        data = dataclasses.replace(config.data, path=path, row_length=rows.row_length)
        config = dataclasses.replace(config, data=data)
    check_values(config)
    model = model or build_model(config.model, config.lora)
    if model.lora.rank != config.lora.rank or (model.lora.rank and model.lora != lora_from(config.lora)):
        raise UserError(f"the model has {model.lora}, config.lora is {config.lora}: build it with lora=config.lora")
    check_rows(rows, config.data.row_length, model.config)
    check_preference(config, rows, held_out)
    mesh = make_mesh(config.mesh, devices)
    check_layout(mesh, model.config, config.data.row_length, config.batch.global_batch)
    if rows is not None:
        check_steps(config, len(rows), batch_parts(mesh))
        if jax.process_index() == 0 and not quiet:
            say_steps(config, rows)
    kernel = choose_kernel(config, mesh, model.config, most_segments(rows, held_out))
    config = settle(config, model.config, mesh, kernel, quiet)
    if jax.process_index() == 0 and not quiet:
        for line in fallbacks(config, mesh, model.config, kernel):
            print(line, flush=True)
    steps = total_steps(config, 0 if rows is None else len(rows))
    optimizer = make_optimizer(config.optimizer, steps, config.lora)
    shardings = state_shardings(mesh, model, optimizer)
    function = make_train_step(config, model, steps, shardings, mesh, kernel)
    batches = None
    if rows is not None:
        batches = TrainBatches(rows, config.batch.global_batch, config.data.seed, batch_sharding(mesh))
    return TrainStep(config, model, mesh, kernel, optimizer, shardings, steps, rows, batches, function)


def total_steps(config: TrainConfig, rows: int) -> int:
    """Number of updates: full batches in `data.epochs` passes over the rows, or to the end of a decay from a branch."""
    branch = branch_step(config.init)
    if branch and config.optimizer.schedule == "wsd":
        return branch + (config.optimizer.decay_steps or math.ceil(branch / 9))  # a tenth of all
    return int(passed_rows(config, rows)) // config.batch.global_batch if rows else STEPS_WITHOUT_ROWS


def passed_rows(config: TrainConfig, rows: int) -> float:
    """Rows in `data.epochs` passes, without rounding errors: 29 for 0.29 x 100, which is 28.999999999999996."""
    product = config.data.epochs * rows
    return round(product) if math.isclose(product, round(product), rel_tol=1e-12) else product


def check_steps(config: TrainConfig, rows: int, parts: int) -> None:
    """Raise UserError if the rows give too few updates to train anything, with values that give enough.

    `parts` is the number of devices over which the rows of a batch spread.
    """
    steps, batch, passed = total_steps(config, rows), config.batch.global_batch, passed_rows(config, rows)
    if steps >= FEWEST_STEPS or (steps and config.few_steps):
        return
    unit = parts * max(config.batch.microbatches, 1)
    fitting = int(passed) // FEWEST_STEPS // unit * unit
    remedies = [f"--batch.global-batch {fitting}"] if fitting else []
    remedies += [f"--data.epochs {-(-FEWEST_STEPS * batch // rows)}", "more rows"]
    remedies += ["--few-steps if this is meant"] if steps else []
    raise UserError(
        f"{rows:,} rows x {config.data.epochs:g} epochs in batches of {batch} (batch.global_batch) give "
        f"{counted(steps)}, fewer than {FEWEST_STEPS}, which train next to nothing: use "
        f"{', '.join(remedies[:-1])} or {remedies[-1]}"
    )


def say_steps(config: TrainConfig, rows: Rows) -> None:
    """Print the number of updates, how many rows no batch holds, and what a mixture takes of each source."""
    steps, passed = total_steps(config, len(rows)), int(passed_rows(config, len(rows)))
    rest = passed - steps * config.batch.global_batch
    left = f"; the last {rest:,} do not fill another batch and are left out" if rest else ""
    epochs = f" in {config.data.epochs:g} epochs" if config.data.epochs != 1 else ""
    each = f"{config.batch.global_batch:,} rows each"
    print(f"{counted(steps)} of {each}, from {passed:,} rows{epochs}{left}", flush=True)
    if isinstance(rows, MixedRows):
        print(rows.shares(steps * config.batch.global_batch), flush=True)


def counted(steps: int) -> str:
    return f"{steps:,} update{'' if steps == 1 else 's'}"


def check_rows(rows: Rows | None, length: int, model: DecoderConfig) -> None:
    """Raise UserError for rows that the model cannot read."""
    if length > model.context:
        raise UserError(
            f"data.row_length {length} exceeds the model's maximum of {model.context} tokens "
            f"(max_position_embeddings of a Hugging Face folder): pack with --row-length {model.context} or less"
        )
    if rows is None or rows.manifest["vocab_size"] <= model.vocab_size:
        return
    if pieces_of_texts(JsonTokenizer(rows.folder / "tokenizer"), model.vocab_size):
        raise UserError(
            f"{rows.folder} has token ids up to {rows.manifest['vocab_size'] - 1}, but the model's vocabulary size is "
            f"{model.vocab_size}: pack with the model's own tokenizer"
        )


def check_preference(config: TrainConfig, rows: Rows | None, held_out: Sequence[PackedRows]) -> None:
    """Raise UserError if rows have pairs and the settings do not, or the other way round, or without a reference."""
    if rows is None:
        return
    beta = config.preference.beta
    if beta and not rows.has_pairs:
        raise UserError(f"preference.beta is {beta:g}, but {rows.folder} has no pairs: name a folder packed from pairs")
    parts = rows.parts if isinstance(rows, MixedRows) else [rows]
    for part in (part for part in (*parts, *held_out) if part.has_pairs):
        if not beta:
            raise UserError(f"{part.folder} has pairs of answers: set --preference.beta, such as 0.1")
        if not part.manifest.get("reference"):
            raise UserError(
                f"{part.folder} lacks the log-probabilities of a reference model: add them with `asclepius reference`"
            )


def open_data(config: TrainConfig, model: DecoderConfig) -> tuple[Rows, dict[str, PackedRows]]:
    """Training rows, and held-out rows by name, checked against the model and against each other."""
    length = config.data.row_length
    check_rows(None, length, model)
    rows = open_rows(config.data)
    check_rows(rows, length, model)
    held_out = {}
    for source in held_out_sources(config.data):
        held_out[source.name] = load_rows(source.path, length)
        check_tokenizer(held_out[source.name].manifest["tokenizer_hash"], source.path, rows)
    return rows, held_out


def most_segments(rows: Rows | None, held_out: Sequence[PackedRows]) -> int:
    """Maximum number of documents in a row, counting padding as one, rounded up to a power of two.

    The attention kernel is compiled for this number. Due to the rounding, more data rarely needs another program.
    """
    opened = [part.max_segments for part in (rows, *held_out) if part is not None]
    return 1 << (max(opened) - 1).bit_length() if opened else TYPICAL_SEGMENTS


def describe(config: TrainConfig, model: Model, rows: Rows, state: State) -> Meta:
    """Metadata of the run for its checkpoints."""
    saved, init = recorded(config), config.init
    if model.lora.rank and init.checkpoint:  # name the step, because the run may have a newer one at the export
        saved["init"]["checkpoint"] = str(find_step(Path(init.checkpoint))[1])
    # Absolute paths, because adapters may be exported from another working directory.
    saved["init"] |= {
        name: str(Path(saved["init"][name]).absolute())
        for name in ("hf", "checkpoint", "branch")
        if saved["init"][name] and not is_bucket_url(saved["init"][name])
    }
    return Meta(
        model=model.config,
        tokenizer_hash=rows.manifest["tokenizer_hash"],
        prompt_template=rows.manifest["prompt_template"],
        row_length=config.data.row_length,
        phase=rows.manifest["phase"],
        config=saved,
        data={
            "content": rows.content,
            **{name: rows.manifest[name] for name in DATA_FACTS},
            **{name: rows.manifest[name] for name in OPTIONAL_FACTS if name in rows.manifest},
        },
        # Steps do not save frozen weights, and a run must not resume with other ones.
        checksums=base_checksums(init, lambda: weight_checksums(state["params"], model.shapes))
        if model.lora.rank
        else {},
    )
