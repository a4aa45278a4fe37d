"""One tree of frozen dataclasses: the schema of a training run, and the only home of its defaults.

A file in `configs/` holds values and is found by name, the command line edits a leaf
(`--optimizer.learning-rate 1e-5`), and a function receives its branch.
"""

import dataclasses
import difflib
import json
import runpy
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from data_prep.contract.errors import UserError


@dataclass(frozen=True)
class InitConfig:
    """Where the parameters come from; random if neither is given. A run that continues itself ignores them."""

    hf: str = ""
    """Hugging Face folder with safetensors, or a hub id such as HuggingFaceTB/SmolLM2-135M."""
    checkpoint: str = ""
    """Run folder, or one step of it; only its parameters are loaded."""
    random: bool = False
    """Tune random weights on instructions, which is refused otherwise."""
    seed: int = 0
    """Random seed for random parameters."""


@dataclass(frozen=True)
class DataConfig:
    path: str = ""
    """Folder that `asclepius pack` wrote."""
    eval_path: str = ""
    """Packed folder that is held out; empty: no evaluation."""
    row_length: int = 2048
    """Tokens of a row; both folders must have been packed to it."""
    epochs: float = 1.0
    """Passes over the data; the number of steps follows."""
    seed: int = 0
    """Of the order of the rows."""


@dataclass(frozen=True)
class BatchConfig:
    global_batch: int = 128
    """Rows in one update, over all devices."""
    microbatches: int = 0
    """Parts that a batch is computed in, one after another; the result is the same. 0: as few as fit."""


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; one of them may be -1: all that are left."""

    data: int = 1
    """Replicas of the model."""
    fsdp: int = -1
    """Devices that share parameters, optimizer state and batch."""
    tensor: int = 1
    """Devices that share heads and feed-forward columns."""
    context: int = 1
    """Devices that share the positions of a row; for rows of 8,192 tokens and more."""


@dataclass(frozen=True)
class ComputeConfig:
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of activations and of parameters as they are used; masters and optimizer state are float32."""
    remat: Literal["auto", "none", "projections", "attention", "full", "offload"] = "auto"
    """What the backward pass finds saved of a block: all, projections and attention, attention, its input alone, not
    even that (it waits in the host's memory). `auto`: the least recomputation that fits."""
    attention: Literal["auto", "splash", "cudnn", "xla"] = "auto"
    """Kernel; `auto`: splash on TPU, cuDNN on NVIDIA, plain XLA elsewhere."""
    compiled: str = "~/.cache/asclepius-jax/compiled"
    """Folder where compiled programs stay, so that the next start does not compile; empty: none."""
    program: str = ""
    """Compiled step that `asclepius plan --save` wrote, of your own making; empty: compile at start."""
    reduce_dtype: Literal["bfloat16", "float32"] = "float32"
    """Of gradients while they are summed over fsdp devices; bfloat16 sends half as many bytes."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warmup and cosine decay."""

    learning_rate: float = 2e-5
    final_fraction: float = 0.0
    """Of the learning rate, at the last step."""
    warmup_fraction: float = 0.03
    """Of all steps."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    """Applies to matrices, not to norm scales."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""
    first_moment_dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 saves 2 bytes a parameter."""


# What of a block may have an adapter, named as in the configuration.
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685): they train, and everything else stays as it was."""

    rank: int = 0
    """Of an adapter's two matrices; 0: none, everything trains."""
    alpha: float = 16.0
    """What the matrices make is scaled by alpha / rank."""
    targets: tuple[str, ...] = LORA_TARGETS
    """Matrices of every block that have adapters."""
    dropout: float = 0.0
    """Share of an adapter's inputs that a training step leaves out."""
    base_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the frozen matrices as they are kept; in bfloat16 they are what a bfloat16 step makes of float32 ones."""
    seed: int = 0
    """Of the adapters at the start, and of dropout."""


@dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int = 500
    """The last step is always saved."""
    keep: int = 2
    """Newest steps that stay."""
    keep_every: int = 0
    """Steps that are multiples of this stay for ever; 0: none."""
    keep_best: int = 0
    """Steps with the lowest loss on held-out rows that stay; saved and evaluated at the same step."""
    checksums: bool = True
    """Save every array's content checksum, and compare when it is read again."""


@dataclass(frozen=True)
class EvalConfig:
    every_steps: int = 500
    """The last step is always evaluated, where there is held-out data."""
    max_rows: int = 1024
    """Rows of the held-out folder that are used."""


@dataclass(frozen=True)
class HealthConfig:
    """What watches over a run."""

    timeout_seconds: float = 0.0
    """Without a finished step, after which the run ends with code 3, to be started again. 0: ten times the median step,
    at least ten minutes; the first step, which compiles, has half an hour."""
    max_skipped: int = 10
    """Steps in a row whose loss or gradient is not finite. Each is skipped; one more ends the run."""
    spike_sigmas: float = 8.0
    """A loss above the median of the last hundred by so many standard deviations is reported with its rows."""
    compare_every: int = 100
    """Steps between comparisons of the processes of a job; one that lags is named. 0: none."""


@dataclass(frozen=True)
class LogConfig:
    every_steps: int = 10
    tensorboard: bool = True
    progress: bool = True
    """A live line on a terminal; a plain line elsewhere."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a LLaMA on packed rows."""

    run_dir: str = "runs/train"
    """Folder of this run; an interrupted run in it continues."""
    model: str = "llama2_7b"
    """A size by name, or a Hugging Face folder or hub id, of which config.json is read."""
    init: InitConfig = field(default_factory=InitConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    log: LogConfig = field(default_factory=LogConfig)
    profile: int = 0
    """Steps that a trace for xprof covers, from the third of this start on; it lies in the run folder."""


def shipped(name: str) -> Path:
    """A folder that travels with the package: `configs` or `launch`, inside a wheel or beside the package in a
    checkout."""
    package = Path(__file__).resolve().parent
    return package / name if (package / name).is_dir() else package.parent / name


@dataclass(frozen=True)
class InitFolder:
    """Copy the configs and launch scripts into a folder, to edit them."""

    folder: tyro.conf.Positional[Path]
    """Folder to write `configs/` and `launch/` into; it is made if it does not exist."""


def init_folder(options: InitFolder) -> None:
    names = ("configs", "launch")
    for name in names:
        if (options.folder / name).exists():
            raise UserError(f"{options.folder / name} exists already: choose another folder, or remove it")
    for name in names:
        shutil.copytree(shipped(name), options.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    print(f"configs and launch scripts are in {options.folder}. There: asclepius train instruct_7b --help")


def find_config(name: str) -> Path:
    """A config file by path, or by name: of `configs/` in this folder, then of those that came with the package."""
    if (path := Path(name)).is_file():
        return path
    by_name = path.parent == Path()
    folders = [Path("configs"), shipped("configs")] if by_name else [path.parent]
    for folder in folders:
        if by_name and (file := (folder / path).with_suffix(".py")).is_file():
            return file
    known = sorted({file.stem if by_name else str(file) for folder in folders for file in folder.glob("*.py")})
    near = difflib.get_close_matches(name, known, 1) or known
    raise UserError(f"{name}: no such config file" + (f"; is it {' or '.join(near)}?" if near else ""))


def load_config(name: str | Path) -> TrainConfig:
    """The `config` of a Python file of values, by path or by name (see `find_config`)."""
    file = find_config(path := str(name))
    sys.path.insert(0, str(file.parent))  # a config may start from one beside it
    try:
        found = runpy.run_path(str(file)).get("config")
    except Exception as error:
        raise UserError(f"{path} does not run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(found, TrainConfig):
        raise UserError(f"{path} sets no `config = TrainConfig(...)`")
    return found


def to_json(config: TrainConfig) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2)


def check_numbers(config: TrainConfig) -> None:
    positive: dict[str, Any] = {
        "batch.global_batch": config.batch.global_batch,
        "data.epochs": config.data.epochs,
        "checkpoint.every_steps": config.checkpoint.every_steps,
        "checkpoint.keep": config.checkpoint.keep,
        "evaluation.every_steps": config.evaluation.every_steps,
        "log.every_steps": config.log.every_steps,
        "optimizer.learning_rate": config.optimizer.learning_rate,
        "optimizer.clip_norm": config.optimizer.clip_norm,
    }
    for name, value in positive.items():
        if value <= 0:
            raise UserError(f"{name} is {value}: it must be above 0")
    not_negative: dict[str, Any] = {
        "checkpoint.keep_every": config.checkpoint.keep_every,
        "checkpoint.keep_best": config.checkpoint.keep_best,
        "health.timeout_seconds": config.health.timeout_seconds,
        "health.max_skipped": config.health.max_skipped,
        "health.spike_sigmas": config.health.spike_sigmas,
        "health.compare_every": config.health.compare_every,
    }
    for name, value in not_negative.items():
        if value < 0:
            raise UserError(f"{name} is {value}: it cannot be negative")
    optimizer = config.optimizer
    fractions = {
        "optimizer.warmup_fraction": optimizer.warmup_fraction,
        "optimizer.beta1": optimizer.beta1,
        "optimizer.beta2": optimizer.beta2,
    }
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} is {value}: it must be from 0 up to, not including, 1")


def check_values(config: TrainConfig) -> None:
    """Refuse numbers that no run can have; what depends on devices or data is checked where those are known."""
    check_numbers(config)
    if config.batch.microbatches < 0:
        raise UserError(
            f"batch.microbatches is {config.batch.microbatches}: it must be 1 or more, or 0 for as few as fit"
        )
    if config.batch.microbatches and config.batch.global_batch % config.batch.microbatches:
        raise UserError(
            f"batch.microbatches {config.batch.microbatches} does not divide batch.global_batch "
            f"{config.batch.global_batch}: use one of {divisors(config.batch.global_batch)}"
        )
    check_lora(config)


def check(config: TrainConfig) -> None:
    """Refuse settings that no run can start from: numbers, places, and what contradicts another setting."""
    check_values(config)
    if config.checkpoint.keep_best and not config.data.eval_path:
        raise UserError(
            f"checkpoint.keep_best is {config.checkpoint.keep_best} and there is no held-out data to tell the best by: "
            "name a packed folder with --data.eval-path"
        )
    places = {
        "run_dir": config.run_dir,
        "data.path": config.data.path,
        "data.eval_path": config.data.eval_path,
        "init.hf": config.init.hf,
        "init.checkpoint": config.init.checkpoint,
    }
    for name, place in places.items():
        if "://" in place:
            raise UserError(
                f"{name} {place}: buckets are read as mounted folders; mount it (gcsfuse) and name the folder"
            )
    if not config.data.path:
        raise UserError("data.path is empty: name a folder that `asclepius pack` wrote with --data.path")
    starts = [name for name in ("hf", "checkpoint", "random") if getattr(config.init, name)]
    if len(starts) > 1:
        raise UserError(f"{' and '.join(f'init.{name}' for name in starts)} are both set: choose one")
    if config.lora.rank and not (config.init.hf or config.init.checkpoint):
        raise UserError(
            f"lora.rank is {config.lora.rank}, and there is nothing to adapt: name the frozen weights with --init.hf "
            "or --init.checkpoint"
        )


def check_lora(config: TrainConfig) -> None:
    lora = config.lora
    if lora.rank < 0:
        raise UserError(f"lora.rank is {lora.rank}: it must be 1 or more, or 0 to train everything")
    if lora.alpha <= 0:
        raise UserError(f"lora.alpha is {lora.alpha}: it must be above 0")
    if not 0 <= lora.dropout < 1:
        raise UserError(f"lora.dropout is {lora.dropout}: it must be from 0 up to, not including, 1")
    unknown = [name for name in lora.targets if name not in LORA_TARGETS]
    if unknown or not lora.targets or len(set(lora.targets)) < len(lora.targets):
        raise UserError(
            f"lora.targets is {' '.join(lora.targets) or 'empty'}: name some of {' '.join(LORA_TARGETS)}, each once"
        )


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
