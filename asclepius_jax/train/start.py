"""The initial state of a run: from an interrupted run in its folder, a checkpoint, Hugging Face or random weights."""

import contextlib
import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax

from asclepius_jax.checkpoint.adapters import differing_base, weight_checksums, whole_params
from asclepius_jax.checkpoint.places import Place
from asclepius_jax.checkpoint.read import (
    STEPS,
    DamagedStep,
    Meta,
    State,
    check_model,
    find_step,
    is_complete,
    read_meta,
    refusal,
    restore_newest,
    restore_state,
    steps_of,
)
from asclepius_jax.config import InitConfig, LoraConfig, OptimizerConfig, PreferenceConfig, TrainConfig
from asclepius_jax.config.schema import with_learning_rate
from asclepius_jax.config.sources import with_paths
from asclepius_jax.distributed.run_folder import check_newest, check_shared
from asclepius_jax.distributed.same_program import check_same_files
from asclepius_jax.model.decoder import Model, Params
from asclepius_jax.model.huggingface.names import load_params, read_config
from asclepius_jax.model.sizes import VARIANTS, DecoderConfig
from asclepius_jax.train.adapters import random_adapters
from asclepius_jax.train.batches import Rows
from asclepius_jax.train.step import abstract_state, init_state, random_params
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.addresses import as_url
from data_prep.contract.folders.buckets.local_copies import fetch, fetch_output
from data_prep.contract.folders.buckets.objects import is_bucket_url
from data_prep.contract.folders.folder_lock import locked
from data_prep.contract.hub import SMALL_FILES, WEIGHTS, is_hub_id, local_folder
from data_prep.contract.tokenizer import load_tokenizer

# Files and folders that a run writes or replaces in its folder.
WRITTEN = ("config.json", "tokenizer", "data_manifest.json", "metrics.jsonl", "summary.json", "report.html", "goodput")


def resolve_model(name: str) -> DecoderConfig:
    """A built-in size by name, or the shape in the config.json of a folder or hub id. Raises UserError for others."""
    if name in VARIANTS:
        return VARIANTS[name]
    if is_bucket_url(name):
        return read_config(fetch(f"{name.rstrip('/')}/config.json").parent)
    if Path(name).is_dir() or is_hub_id(name):
        return read_config(local_folder(name, SMALL_FILES))
    raise UserError(
        f"model {name!r} is neither a folder with config.json, nor a hub id, nor one of {', '.join(VARIANTS)}"
    )


def with_local_copies(config: TrainConfig) -> TrainConfig:
    """The configuration with local copies in place of rows and runs in buckets. A host fetches each once."""
    if is_bucket_url(config.run_dir):
        config = dataclasses.replace(config, run_dir=str(fetch_output(config.run_dir)))
    data = with_paths(config.data, lambda path: str(fetch(path)) if is_bucket_url(path) else path)
    config = dataclasses.replace(config, data=data)
    init = config.init
    if is_bucket_url(init.checkpoint):
        init = dataclasses.replace(init, checkpoint=str(fetch(init.checkpoint)))
    if is_bucket_url(init.branch):
        init = dataclasses.replace(init, branch=str(fetch(init.branch)))
    return dataclasses.replace(config, init=init)


def with_local_weights(config: TrainConfig) -> TrainConfig:
    """The configuration with a hub id replaced by its cache folder, which checkpoints and model cards then name, or an
    address in a bucket by its local copy."""
    if not config.init.hf:
        return config
    name = config.init.hf
    folder = fetch(name) if is_bucket_url(name) else local_folder(name, WEIGHTS)
    return dataclasses.replace(config, init=dataclasses.replace(config.init, hf=str(folder)))


def check_hosts(config: TrainConfig) -> None:
    """Check that all hosts of the job share the run folder, see the same steps and start from the same weights.

    Raises UserError or Disagreement, with the hosts that do not.
    """
    check_shared(Path(config.run_dir))
    for folder in filter(None, (config.run_dir, config.init.checkpoint)):
        seen = [int(step.name) for step in steps_of(Path(folder))]
        # Hosts have copies of their own of a run in a bucket; what they meet for has one name.
        check_newest(as_url(folder), seen, functools.partial(is_complete, Path(folder)))
    if config.init.hf:
        check_same_files(config.init.hf)


def lock_of_run(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Context that holds the lock of a run folder, through process 0 of the job.

    Raises UserError if another run holds it, or if the folder contains files of something else that a run would
    overwrite.
    """
    if jax.process_index() != 0:
        return contextlib.nullcontext()
    if not steps_of(run_dir) and not is_config(run_dir / "config.json"):
        foreign = [name for name in WRITTEN if (run_dir / name).exists()]
        if foreign:
            raise UserError(f"{run_dir} contains {foreign[0]}, but no run: choose another --run-dir")
    return locked(run_dir, "choose another --run-dir")


def is_config(path: Path) -> bool:
    """Return True if a file is the configuration of a run."""
    try:
        return "run_dir" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def branch_step(init: InitConfig) -> int:
    """The step that a run branches off, or 0. Raises UserError unless it is named itself: a run may go on meanwhile."""
    if not init.branch:
        return 0
    path = Path(init.branch)
    if path.parent.name != STEPS or not path.name.isdecimal():
        raise UserError(f"init.branch {init.branch} is no step: name RUN/{STEPS}/STEP")
    return int(path.name)


def announce_start(config: TrainConfig, rows: Rows) -> None:
    """Print where the weights come from. Raises UserError if random weights would be tuned by mistake."""
    if steps_of(Path(config.run_dir)):
        origin = f"resuming the run in {config.run_dir}"
    elif config.init.branch:
        origin = f"continuing from {config.init.branch}, with its optimizer state"
    elif config.init.checkpoint:
        origin = f"starting from the parameters of {find_step(Path(config.init.checkpoint))[1]}"
    elif config.init.hf:
        origin = f"starting from the weights of {config.init.hf}"
    else:
        check_random(config, rows)
        origin = f"starting from random weights (init.seed {config.init.seed})"
    if jax.process_index() == 0:
        print(origin, flush=True)


def check_random(config: TrainConfig, rows: Rows | None) -> None:
    if rows is not None and rows.manifest["phase"] != "pretrain" and not config.init.random:
        raise UserError(
            f"{rows.folder} contains instructions, but no weights to tune are set: add --init.hf (a Hugging Face "
            "folder or hub id) or --init.checkpoint (a run folder), or --init.random to tune random weights"
        )


def start_state(config: TrainConfig, model: Model, rows: Rows, optimizer: Any, shardings: State) -> State:
    """The state to start from, chosen in this order:
    1. an interrupted run in this folder   2. init.branch   3. init.checkpoint   4. init.hf   5. random
    """

    def restore(folder: Place, meta: Meta) -> State:
        check_resumable(config, model, rows, folder, meta)
        state = restored(folder, meta)
        print(f"resuming {config.run_dir} from step {folder.name}")
        return state

    def restored(folder: Place, meta: Meta) -> State:
        abstract = abstract_state(model, optimizer, shardings)
        if model.lora.rank:  # the step contains only adapters
            del abstract["params"]
        state = restore_state(folder, abstract, meta, config.checkpoint.checksums)
        return state if not model.lora.rank else {**state, "params": same_base(meta)}

    def same_base(meta: Meta) -> Params:
        params = start_params(config, model, rows, shardings["params"])
        if differing := differing_base(meta, config.init, lambda: weight_checksums(params, model.shapes)):
            before = meta.config["init"]["hf"] or meta.config["init"]["checkpoint"]
            raise UserError(
                f"{config.init.hf or config.init.checkpoint} is not the base of the adapters in {origin} "
                f"({differing}): set the weights that they were trained on ({before}), or choose another --run-dir"
            )
        return params

    origin = config.run_dir
    if (state := restore_newest(Path(config.run_dir), restore)) is not None:
        return state
    if config.init.branch:
        origin = config.init.branch
        _, folder = find_step(Path(origin))
        meta = read_meta(folder)
        check_branch(config, model, rows, folder, meta)
        try:
            return restored(folder, meta)
        except DamagedStep as error:
            raise UserError(refusal(folder, error)) from error
    return initial_state(config, model, rows, optimizer, shardings)


def check_resumable(config: TrainConfig, model: Model, rows: Rows, folder: Place, meta: Meta) -> None:
    """Raise UserError if the run with this step cannot be resumed with these settings, model and rows."""
    if meta.phase == "import":
        raise UserError(
            f"{config.run_dir} contains imported weights: start from them with --init.checkpoint {config.run_dir}, "
            "and choose another --run-dir"
        )
    check_model(meta, model.config, folder)
    check_tokenizer(meta.tokenizer_hash, str(folder), rows)
    check_same_course(meta, config, rows)


def check_branch(config: TrainConfig, model: Model, rows: Rows, folder: Place, meta: Meta) -> None:
    """Raise UserError if a run cannot continue from this step of another one. Schedule and data may differ."""
    if meta.phase == "import":
        raise UserError(f"{folder} contains imported weights, which no run has trained: use --init.checkpoint {folder}")
    check_model(meta, model.config, folder)
    check_tokenizer(meta.tokenizer_hash, str(folder), rows)
    before, lora = {**plain(LoraConfig()), **meta.config["lora"]}, plain(config.lora)
    if (before["rank"] or lora["rank"]) and before != lora:
        raise UserError(f"{folder} was trained with lora {before}, not {lora}: set the same adapters")


def initial_state(config: TrainConfig, model: Model, rows: Rows | None, optimizer: Any, shardings: State) -> State:
    """The state before the first update of a run without a checkpoint."""
    params = start_params(config, model, rows, shardings["params"])
    adapters = None
    if model.lora.rank:
        adapters = random_adapters(model, config.lora.seed, shardings["adapters"], params)
    return init_state(params, optimizer, shardings, adapters)


def start_params(config: TrainConfig, model: Model, rows: Rows | None, shardings: Params) -> Params:
    folder = check_weights(config, model, rows)
    if folder is None:
        return random_params(model, config.init.seed, shardings)
    if config.init.checkpoint:
        return whole_params(folder, model, shardings)
    return load_params(Path(config.init.hf), model, shardings)


def check_weights(config: TrainConfig, model: Model, rows: Rows | None) -> Place | None:
    """The folder of the initial weights, or None for random ones; `init.hf` is a folder.

    Raises UserError if they do not fit the model or the tokenizer of the rows, or are random and must not be.
    """
    if config.init.checkpoint:
        _, folder = find_step(Path(config.init.checkpoint))
        meta = read_meta(folder)
        check_model(meta, model.config, folder)
        check_tokenizer(meta.tokenizer_hash, str(folder), rows)
        return folder
    if config.init.hf:
        folder = Path(config.init.hf)
        check_model(Meta(read_config(folder), "", "", 0, "import", {}), model.config, folder)
        check_tokenizer(load_tokenizer(folder).hash, config.init.hf, rows)
        return folder
    check_random(config, rows)
    return None


def check_tokenizer(model_hash: str, where: str, rows: Rows | None) -> None:
    if rows is None:
        return
    data_hash = rows.manifest["tokenizer_hash"]
    if model_hash != data_hash:
        raise UserError(
            f"{where} has a tokenizer with hash {model_hash[:12]}, {rows.folder} was packed with {data_hash[:12]}: "
            f"pack with the same tokenizer"
        )


def check_same_course(meta: Meta, config: TrainConfig, rows: Rows) -> None:
    """Raise UserError if a resumed run would see other batches or learning rates than without the interruption."""
    config = with_learning_rate(config)
    saved, now = meta.config, dataclasses.asdict(config)
    pairs = [("data", "seed"), ("data", "epochs"), ("data", "row_length"), ("batch", "global_batch")]
    changed = [f"{a}.{b} {saved[a][b]} -> {now[a][b]}" for a, b in pairs if saved[a][b] != now[a][b]]
    begun, branch = branch_step(InitConfig(branch=saved["init"].get("branch", ""))), branch_step(config.init)
    if begun != branch:
        changed.append(f"init.branch step {begun} -> {branch}")
    # A step of an earlier version lacks the settings that have come since.
    for name, default in (("optimizer", OptimizerConfig()), ("preference", PreferenceConfig()), ("lora", LoraConfig())):
        before, after = {**plain(default), **saved.get(name, {})}, plain(getattr(config, name))
        if before != after and (name != "lora" or before["rank"] or after["rank"]):
            changed.append(f"{name} {before} -> {after}")
    if meta.data["content"] != rows.content:
        before = saved["data"]["path"]
        named = before if isinstance(before, str) else " ".join(before)
        changed.append(f"the rows of data.path, packed again or different from those of {named}")
    if changed:
        raise UserError(
            f"{config.run_dir} contains an interrupted run with other settings ({'; '.join(changed)}): "
            "resume with the old settings, or choose another --run-dir"
        )


def plain(settings: Any) -> dict[str, Any]:
    """A branch of the configuration in JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def recorded(config: TrainConfig) -> dict[str, Any]:
    """The settings as a run records them, with the addresses of buckets in place of this machine's copies."""

    def record(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: record(each) for name, each in value.items()}
        return as_url(value) if isinstance(value, str) else value

    return record(dataclasses.asdict(dataclasses.replace(config, data=with_paths(config.data, as_url))))


def write_run_folder(run_dir: Path, config: TrainConfig, rows: Rows) -> None:
    """Write the configuration, and copies of the data's tokenizer and manifest, to the run folder."""
    if jax.process_index() == 0:
        (run_dir / "config.json").write_text(json.dumps(recorded(config), indent=2) + "\n")
        shutil.copytree(rows.folder / "tokenizer", run_dir / "tokenizer", dirs_exist_ok=True)
        (run_dir / "data_manifest.json").write_text(json.dumps(rows.manifest, indent=2, ensure_ascii=False) + "\n")
