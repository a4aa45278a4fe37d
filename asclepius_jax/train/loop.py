"""The training run, top to bottom."""

import contextlib
import dataclasses
import json
import math
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from asclepius_jax.agreement import check_agreement, facts_of
from asclepius_jax.checkpoints import (
    Meta,
    State,
    check_model,
    find_step,
    read_meta,
    restore_newest,
    restore_params,
    restore_state,
)
from asclepius_jax.config import TrainConfig, check, to_json
from asclepius_jax.data import PackedRows, Prefetch, TrainBatches, eval_batches
from asclepius_jax.model.hf import load_params, read_config
from asclepius_jax.model.llama import Model, Params, build
from asclepius_jax.model.variants import VARIANTS, LlamaConfig
from asclepius_jax.saver import Saver
from asclepius_jax.settle import settle
from asclepius_jax.sharding import batch_sharding, check_layout, make_mesh
from asclepius_jax.train.kernel import choose_kernel
from asclepius_jax.train.metrics import Clock, Metrics, Throughput, Trace
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.program import load_program, program_facts
from asclepius_jax.train.report import write_report
from asclepius_jax.train.step import (
    abstract_batch,
    abstract_state,
    init_state,
    make_eval_step,
    make_train_step,
    random_params,
    state_shardings,
)
from data_prep.records import UserError
from data_prep.tokenizer import load_tokenizer

DATA_FACTS = ("phase", "rows", "tokens", "loss_tokens", "documents", "packing_efficiency", "licences", "sources")


def train(config: TrainConfig, devices: list[jax.Device] | None = None) -> Path:
    """Run to the end, or to a signal; returns the run folder. An interrupted run in it continues by itself."""
    clock = Clock()
    with clock("start-up"):
        check(config)
        keep_compiled(config.compute.compiled)
        check_agreement(facts_of(config))
        run_dir = Path(config.run_dir)
        model = build(resolve_model(config.model))
        mesh = make_mesh(config.mesh, devices)
        rows, held_out = open_data(config, model.config)
        check_layout(mesh, model.config, config.data.row_length, config.batch.global_batch)
        kernel = choose_kernel(config, mesh, model.config, most_segments(rows, held_out))
        config = settle(config, model.config, mesh, kernel)
        batches = TrainBatches(rows, config.batch.global_batch, config.data.seed, batch_sharding(mesh))
        total_steps = max(1, int(config.data.epochs * len(rows) / config.batch.global_batch))
        optimizer = make_optimizer(config.optimizer, total_steps)
        shardings = state_shardings(mesh, model, optimizer)
        meta = describe(config, model, rows)
        train_step = make_train_step(config, model, total_steps, shardings, mesh, kernel)
        if config.compute.program:
            facts = program_facts(config, model.config, mesh, kernel, total_steps)
            shapes = abstract_state(model, optimizer, shardings), abstract_batch(config, mesh)
            train_step = load_program(Path(config.compute.program), facts, train_step, *shapes, mesh)
        # Before anything is written: a start that is refused leaves no run folder behind.
        state = start_state(config, model, rows, optimizer, shardings)
        first = int(state["step"])
        saver = Saver(run_dir, config.checkpoint)
        write_run_folder(run_dir, config, rows)
        eval_step = make_eval_step(config, model, shardings, mesh, kernel)
        metrics = Metrics(run_dir, config.log, first, total_steps)
        throughput = Throughput(model.config, config.batch.global_batch, config.data.row_length)

    stop, trace = StopSignal(), Trace(run_dir / "profile", first, config.profile)
    metrics.start_clock()
    with stop.caught(), trace, Prefetch(batches, first, total_steps) as coming:
        for step in range(first + 1, total_steps + 1):
            with clock("input"):
                batch = coming.get()
            with clock("compile" if step == first + 1 else "step"):
                state, numbers = train_step(state, batch)
            metrics.add(step, numbers)
            trace.after(step, numbers)
            leave = step < total_steps and stop.reached(step)
            evaluating = held_out is not None and due(step, config.evaluation.every_steps, total_steps)
            saving = leave or due(step, config.checkpoint.every_steps, total_steps)
            # The first step is fetched by itself, so that compiling it counts in no other's time; and what is under
            # way is fetched before a pause, so that it does not finish uncounted.
            if metrics.due(step) or evaluating or saving or step == first + 1:
                with clock("compile" if step == first + 1 else "step"):
                    metrics.fetch(throughput)
            if held_out is not None and evaluating:
                with clock("evaluation"), metrics.pause():
                    evaluated = evaluate(state["params"], eval_step, held_out, config, batch_sharding(mesh))
                metrics.write([{"step": step, **evaluated}])
            if saving:
                with clock("save"), metrics.pause():
                    saver.save(step, state, meta)
            if leave:
                break
    with clock("save"):
        saver.finish(last=True)
    metrics.close()
    if first < total_steps:  # a finished run that is started again keeps its story
        write_summary(run_dir, step, total_steps, clock)
    if jax.process_index() == 0:
        write_report(run_dir)
    return run_dir


def keep_compiled(folder: str) -> None:
    """Compiled programs outlive the process, unless JAX was told already where to keep them."""
    if folder and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def due(step: int, every: int, total: int) -> bool:
    return step % every == 0 or step == total


def resolve_model(name: str) -> LlamaConfig:
    """A size by name, or a folder with config.json."""
    if name in VARIANTS:
        return VARIANTS[name]
    if Path(name).is_dir():
        return read_config(Path(name))
    raise UserError(f"model {name!r} is neither a folder with config.json nor one of {', '.join(VARIANTS)}")


def open_data(config: TrainConfig, model: LlamaConfig) -> tuple[PackedRows, PackedRows | None]:
    """Training and held-out rows, checked against the model and against each other."""
    length = config.data.row_length
    if length > model.max_length:
        raise UserError(
            f"data.row_length {length} is beyond the model's {model.max_length} tokens (of a folder, the shorter of "
            f"max_position_embeddings and sliding_window): pack with --row-length {model.max_length} or less"
        )
    rows = PackedRows(Path(config.data.path), length)
    if rows.manifest["vocab_size"] > model.vocab_size:
        raise UserError(
            f"{config.data.path} has token ids up to {rows.manifest['vocab_size'] - 1}, the model's vocabulary holds "
            f"{model.vocab_size}: pack with the model's own tokenizer"
        )
    if not config.data.eval_path:
        return rows, None
    held_out = PackedRows(Path(config.data.eval_path), length)
    check_tokenizer(held_out.manifest["tokenizer_hash"], config.data.eval_path, rows)
    return rows, held_out


def most_segments(rows: PackedRows, held_out: PackedRows | None) -> int:
    """Documents of a row at most, padding counted as one. A power of two: more data rarely means another program."""
    most = max(part.max_segments for part in (rows, held_out) if part is not None)
    return 1 << (most - 1).bit_length()


def check_tokenizer(theirs: str, where: str, rows: PackedRows) -> None:
    ours = rows.manifest["tokenizer_hash"]
    if theirs != ours:
        raise UserError(
            f"{where} has a tokenizer with hash {theirs[:12]}, {rows.folder} was packed with {ours[:12]}: "
            f"pack with the same tokenizer"
        )


def describe(config: TrainConfig, model: Model, rows: PackedRows) -> Meta:
    return Meta(
        model=model.config,
        tokenizer_hash=rows.manifest["tokenizer_hash"],
        prompt_template=rows.manifest["prompt_template"],
        row_length=config.data.row_length,
        phase=rows.manifest["phase"],
        config=dataclasses.asdict(config),
        data={"content": rows.content, **{name: rows.manifest[name] for name in DATA_FACTS}},
    )


def start_state(config: TrainConfig, model: Model, rows: PackedRows, optimizer: Any, shardings: State) -> State:
    """The state to start from, in this order:
    1. an interrupted run in this folder   2. init.checkpoint   3. init.hf   4. random
    """

    def restore(folder: Path, meta: Meta) -> State:
        if meta.phase == "import":
            raise UserError(
                f"{config.run_dir} holds imported weights: start from them with --init.checkpoint {config.run_dir}, "
                "and choose another --run-dir"
            )
        check_model(meta, model.config, folder)
        check_tokenizer(meta.tokenizer_hash, str(folder), rows)
        check_same_course(meta, config, rows)
        state = restore_state(folder, abstract_state(model, optimizer, shardings), meta, config.checkpoint.checksums)
        print(f"continuing {config.run_dir} from step {folder.name}")
        return state

    if (state := restore_newest(Path(config.run_dir), restore)) is not None:
        return state
    return init_state(start_params(config, model, rows, shardings["params"]), optimizer, shardings)


def start_params(config: TrainConfig, model: Model, rows: PackedRows, shardings: Params) -> Params:
    if config.init.checkpoint:
        _, folder = find_step(Path(config.init.checkpoint))
        meta = read_meta(folder)
        check_model(meta, model.config, folder)
        check_tokenizer(meta.tokenizer_hash, str(folder), rows)
        return restore_params(folder, model.shapes, shardings)
    if config.init.hf:
        folder = Path(config.init.hf)
        check_model(Meta(read_config(folder), "", "", 0, "import", {}), model.config, folder)
        check_tokenizer(load_tokenizer(folder).hash, config.init.hf, rows)
        return load_params(folder, model, shardings)
    return random_params(model, config.init.seed, shardings)


def check_same_course(meta: Meta, config: TrainConfig, rows: PackedRows) -> None:
    """A run that continues sees the batches and rates that it would have seen: what decides them must be the same."""
    saved, now = meta.config, dataclasses.asdict(config)
    pairs = [("data", "seed"), ("data", "epochs"), ("data", "row_length"), ("batch", "global_batch")]
    changed = [f"{a}.{b} {saved[a][b]} -> {now[a][b]}" for a, b in pairs if saved[a][b] != now[a][b]]
    if saved["optimizer"] != now["optimizer"]:
        changed.append(f"optimizer {saved['optimizer']} -> {now['optimizer']}")
    if meta.data["content"] != rows.content:
        changed.append(f"the rows of data.path, packed anew or others than those of {saved['data']['path']}")
    if changed:
        raise UserError(
            f"{config.run_dir} holds an interrupted run with other settings ({'; '.join(changed)}): "
            "continue with the old ones, or choose another --run-dir"
        )


def evaluate(params: Params, eval_step: Any, rows: PackedRows, config: TrainConfig, sharding: Any) -> dict[str, float]:
    """Mean loss in nats and perplexity over the loss-bearing tokens of the held-out rows."""
    size = max(1, config.batch.global_batch // config.batch.microbatches)
    parts = [eval_step(params, b) for b in eval_batches(rows, size, config.evaluation.max_rows, sharding)]
    total, tokens = (math.fsum(map(float, values)) for values in zip(*parts, strict=True))
    loss = total / max(tokens, 1.0)
    return {"eval_loss": loss, "eval_perplexity": math.exp(min(loss, 80.0))}


def write_run_folder(run_dir: Path, config: TrainConfig, rows: PackedRows) -> None:
    """What a run folder holds beside its steps: the configuration, and the data's tokenizer and manifest."""
    if jax.process_index() == 0:
        (run_dir / "config.json").write_text(to_json(config) + "\n")
        shutil.copytree(rows.folder / "tokenizer", run_dir / "tokenizer", dirs_exist_ok=True)
        shutil.copyfile(rows.folder / "manifest.json", run_dir / "data_manifest.json")


def write_summary(run_dir: Path, step: int, total_steps: int, clock: Clock) -> None:
    summary = {"step": step, "total_steps": total_steps, "seconds": dict(clock.seconds)}
    if jax.process_index() == 0:
        (run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


class StopSignal:
    """SIGTERM or Ctrl-C asks a run to save and leave; every process of it leaves after the same step.

    With several processes JAX's own handler listens for SIGTERM and tells the others; another one would deafen it.
    """

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread alone
            return
        handlers = {s: signal.signal(s, self.ask) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def ask(self, *_: Any) -> None:
        self.asked = True

    def reached(self, step: int) -> bool:
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked
