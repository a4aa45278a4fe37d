"""One tree of frozen dataclasses: the schema of a training run, and the only home of its defaults.

A file in `configs/` holds values and is found by name, the command line edits a leaf
(`--optimizer.learning-rate 1e-5`), and a function receives its branch.
"""

import difflib
import math
import runpy
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.objects import is_bucket_url


@dataclass(frozen=True)
class InitConfig:
    """Source of the initial parameters; random without one. A run that resumes from its own checkpoint ignores it."""

    hf: str = ""
    """Hugging Face folder with safetensors, or a hub id such as HuggingFaceTB/SmolLM2-135M."""
    checkpoint: str = ""
    """Run folder, or RUN/checkpoints/STEP; only its parameters are loaded."""
    random: bool = False
    """Allow instruction tuning to start from random weights."""
    seed: int = 0
    """Seed of random parameters."""


@dataclass(frozen=True)
class DataConfig:
    """Packed rows."""

    path: str = ""
    """Folder written by `asclepius pack`."""
    eval_path: str = ""
    """Packed folder of held-out rows; empty turns evaluation off."""
    row_length: int = 2048
    """Tokens per row; both folders must be packed to this length."""
    epochs: float = 1.0
    """Passes over the rows; they determine the number of steps. Rows that do not fill the last batch are left out."""
    seed: int = 0
    """Random seed for shuffling rows."""


@dataclass(frozen=True)
class BatchConfig:
    """Rows per update."""

    global_batch: int = 128
    """Rows per update, over all devices."""
    microbatches: int = 0
    """Microbatches per update, computed one after another with the same result; 0 chooses as few as fit in memory."""


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one axis may be -1, which takes all remaining devices."""

    data: int = 1
    """Replicas of the model (data parallelism)."""
    fsdp: int = -1
    """Devices that share parameters, optimizer state and batch (fully sharded data parallelism)."""
    tensor: int = 1
    """Devices that share attention heads and feed-forward columns (tensor parallelism)."""
    context: int = 1
    """Devices that share the positions of a row (sequence parallelism); useful from 8,192 tokens per row."""


@dataclass(frozen=True)
class ComputeConfig:
    """Precision, recomputation and kernels."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of activations and of the parameters in use; master parameters and optimizer state stay float32."""
    remat: Literal["auto", "none", "projections", "attention", "full", "offload"] = "auto"
    """Activations kept for the backward pass. none: all, nothing is recomputed. projections: q, k, v, gate, up and
    attention. attention: the attention output. full: block inputs only, everything else is recomputed. offload: block
    inputs, in host memory. auto: the least recomputation that fits in memory."""
    attention: Literal["auto", "splash", "cudnn", "xla"] = "auto"
    """Attention kernel; auto takes splash on TPU, cuDNN on NVIDIA GPUs, and plain XLA elsewhere."""
    compiled: str = "~/.cache/asclepius-jax/compiled"
    """Cache folder for compiled programs, so that the next start does not compile; empty turns the cache off."""
    program: str = ""
    """Compiled step written by `asclepius plan --save`; empty compiles at the start. Load only files that you made: a
    compiled step can run any code."""
    reduce_dtype: Literal["bfloat16", "float32"] = "float32"
    """Type of gradients while they are summed over fsdp devices; bfloat16 halves the bytes sent."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warmup and cosine decay."""

    learning_rate: float = 2e-5
    """Peak learning rate."""
    final_fraction: float = 0.0
    """Learning rate of the last step as a fraction of the peak."""
    warmup_fraction: float = 0.03
    """Fraction of all steps spent on linear warmup."""
    beta1: float = 0.9
    """Decay rate of the first moment."""
    beta2: float = 0.999
    """Decay rate of the second moment."""
    epsilon: float = 1e-8
    """Term added to the denominator for stability."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; norm scales have none."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; larger gradients are scaled down to it."""
    first_moment_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the first moment; bfloat16 saves 2 bytes per parameter."""


# Matrices of a block that may have an adapter, by their names in the configuration.
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685), trained beside frozen weights."""

    rank: int = 0
    """Rank of the adapters; 0 trains every parameter instead."""
    alpha: float = 16.0
    """Numerator of the adapters' scale, which is alpha / rank."""
    targets: tuple[str, ...] = LORA_TARGETS
    """Matrices of each block that have adapters."""
    dropout: float = 0.0
    """Probability of dropping an input of an adapter in training."""
    base_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type in which frozen matrices are stored. bfloat16 gives the results of float32 where the step computes in
    bfloat16."""
    seed: int = 0
    """Random seed for initial adapters and for dropout."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints of a run."""

    every_steps: int = 500
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """Number of newest checkpoints to keep."""
    keep_every: int = 0
    """Keep every checkpoint whose step is a multiple of this; 0 keeps none for that reason."""
    keep_best: int = 0
    """Number of checkpoints with the lowest held-out loss to keep, among steps that are both saved and evaluated."""
    checksums: bool = True
    """Save a checksum of every array's content, and compare it at each restore."""


@dataclass(frozen=True)
class EvalConfig:
    """Loss on held-out rows."""

    every_steps: int = 500
    """Steps between evaluations; the last step is always evaluated."""
    max_rows: int = 1024
    """Largest number of held-out rows to evaluate, spread evenly over the folder."""


@dataclass(frozen=True)
class HealthConfig:
    """Checks that end or report an unhealthy run."""

    timeout_seconds: float = 0.0
    """Exit with code 3 (restart to resume) if no step finishes within this many seconds. 0 chooses the limit: twenty
    times the median step, at least three minutes. A save or a batch of an evaluation has ten minutes; each part of the
    start and the first step, which compiles, have half an hour."""
    max_skipped: int = 10
    """Number of consecutive steps to skip whose loss, gradient or update is not finite; the next one ends the run."""
    spike_sigmas: float = 8.0
    """Report a loss, with its rows, that exceeds the median of the last hundred losses by this many of their standard
    deviations."""
    compare_every: int = 100
    """Steps between comparisons of the step times of a job's processes, which name a slow one; 0 never compares."""


@dataclass(frozen=True)
class LogConfig:
    """Metrics of a run."""

    every_steps: int = 10
    """Steps between lines of the log and of metrics.jsonl."""
    tensorboard: bool = True
    """Write TensorBoard event files into the run folder."""
    wandb: str = ""
    """Project of Weights & Biases, or ENTITY/PROJECT, that also gets the metrics; empty for none."""
    mlflow: str = ""
    """Experiment of MLflow that also gets the metrics; empty for none."""
    progress: bool = True
    """Show a live progress line on a terminal, and plain lines elsewhere."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a language model on packed rows."""

    run_dir: str = "runs/train"
    """Folder of the run; an interrupted run in it resumes."""
    model: str = "llama2_7b"
    """Model size by name, or a Hugging Face folder or hub id whose config.json is read."""
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
    few_steps: bool = False
    """Allow a run of fewer than ten updates."""
    profile: int = 0
    """Steps to trace for xprof, from the third step of this start; the trace is saved in the run folder."""


def shipped(name: str) -> Path:
    """The folder `configs` or `launch`, which is inside the package in a wheel and next to it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / name if (package / name).is_dir() else package.parent / name


@dataclass(frozen=True)
class InitFolder:
    """Copy the configs and launch scripts into a folder, to edit them."""

    folder: tyro.conf.Positional[Path]
    """Folder for `configs/` and `launch/`; created if missing."""


def init_folder(options: InitFolder) -> None:
    names = ("configs", "launch")
    for name in names:
        if (options.folder / name).exists():
            raise UserError(f"{options.folder / name} exists already: choose another folder, or remove it")
    for name in names:
        shutil.copytree(shipped(name), options.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    print(f"configs and launch scripts are in {options.folder}. There: asclepius train instruct_7b --help")


def find_config(name: str) -> Path:
    """Find a config file by path or by name, first in `./configs` and then in the package.

    Raises UserError if there is none.
    """
    if (path := Path(name)).is_file():
        return path
    by_name = path.parent == Path()
    folders = [Path("configs"), shipped("configs")] if by_name else [path.parent]
    for folder in folders:
        if by_name and (file := (folder / path).with_suffix(".py")).is_file():
            return file
    known = sorted({file.stem if by_name else str(file) for folder in folders for file in folder.glob("*.py")})
    near = difflib.get_close_matches(name, known, 1) or known
    raise UserError(f"{name}: no such config file" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def load_config(name: str | Path) -> TrainConfig:
    """Load the variable `config` of a config file, by path or by name (see `find_config`).

    Raises UserError if the file is missing, fails or does not set a TrainConfig.
    """
    file = find_config(path := str(name))
    sys.path.insert(0, str(file.parent))  # a config may import another one from its folder
    try:
        found = runpy.run_path(str(file)).get("config")
    except Exception as error:
        raise UserError(f"{path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(found, TrainConfig):
        raise UserError(f"{path} does not set `config = TrainConfig(...)`: add it")
    return found


# The numbers of a configuration by the values that they may have. Names are those of the command line.
POSITIVE = (
    "batch.global_batch", "data.epochs", "checkpoint.every_steps", "checkpoint.keep", "evaluation.every_steps",
    "evaluation.max_rows", "log.every_steps", "optimizer.learning_rate", "optimizer.clip_norm", "optimizer.epsilon",
    "lora.alpha",
)  # fmt: skip
NOT_NEGATIVE = (
    "optimizer.weight_decay", "checkpoint.keep_every", "checkpoint.keep_best", "health.timeout_seconds",
    "health.max_skipped", "health.spike_sigmas", "health.compare_every", "profile",
)  # fmt: skip
BELOW_ONE = ("optimizer.warmup_fraction", "optimizer.beta1", "optimizer.beta2", "lora.dropout")
# A step computes with these in float32. A learning rate of 1e-50 would be 0 there, and train nothing.
FLOAT32 = (
    "optimizer.learning_rate", "optimizer.clip_norm", "optimizer.epsilon", "optimizer.weight_decay", "lora.alpha",
)  # fmt: skip
LEAST_FLOAT32, MOST_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127
MOST_BELOW_ONE = 1 - 2.0**-24  # float32 rounds anything above to 1
# Sizes beyond those of any run, which would be allocated or counted before anything notices.
MOST = {
    "batch.global_batch": 2**20, "data.row_length": 2**22, "data.epochs": 10_000, "data.seed": 2**32 - 1,
    "lora.rank": 2**14, "lora.seed": 2**32 - 1, "init.seed": 2**32 - 1,
}  # fmt: skip


def check_numbers(config: TrainConfig) -> None:
    """Raise UserError for the first number that no run can have."""

    def refuse(names: Iterable[str], fits: Callable[[float], bool], told: str) -> None:
        for name in names:
            if not fits(value := value_of(config, name)):  # NaN fits nowhere
                raise UserError(f"{name} is {value}: it {told}")

    refuse(POSITIVE, lambda value: 0 < value < math.inf, "must be above 0")
    refuse(NOT_NEGATIVE, lambda value: 0 <= value < math.inf, "cannot be negative")
    refuse(BELOW_ONE, lambda value: 0 <= value < 1, "must be at least 0 and below 1")
    refuse(BELOW_ONE, lambda value: value <= MOST_BELOW_ONE, "is 1 in float32: use a smaller one")
    refuse(["optimizer.final_fraction"], lambda value: 0 <= value <= 1, "must be from 0 to 1")
    told = f"is no number in float32: use one from {LEAST_FLOAT32:.3g} to {MOST_FLOAT32:.3g}"
    refuse(FLOAT32, lambda value: not value or LEAST_FLOAT32 <= value <= MOST_FLOAT32, told)
    for name, most in MOST.items():
        if not 0 <= (value := value_of(config, name)) <= most:
            raise UserError(f"{name} is {value}: it must be from 0 to {most:,}")


def value_of(config: TrainConfig, name: str) -> Any:
    """The value of a setting by its name on the command line, such as optimizer.epsilon."""
    section, _, field = name.rpartition(".")
    return getattr(getattr(config, section) if section else config, field)


def check_values(config: TrainConfig) -> None:
    """Raise UserError for invalid numbers. Values that depend on devices or data are checked where these are known."""
    check_lora(config)
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


def check(config: TrainConfig) -> None:
    """Raise UserError for invalid numbers or folders, missing settings, and settings that contradict one another."""
    check_values(config)
    if config.checkpoint.keep_best and not config.data.eval_path:
        raise UserError(
            f"checkpoint.keep_best is {config.checkpoint.keep_best}, but there is no held-out data to compare "
            "checkpoints: set a packed folder with --data.eval-path"
        )
    places = {
        "run_dir": config.run_dir,
        "data.path": config.data.path,
        "data.eval_path": config.data.eval_path,
        "init.hf": config.init.hf,
        "init.checkpoint": config.init.checkpoint,
    }
    for name, place in places.items():
        if "://" in place and not is_bucket_url(place):
            raise UserError(f"{name} {place}: only gs:// and s3:// are known; mount it and set the folder")
    if not config.data.path:
        raise UserError("data.path is empty: set --data.path to a folder written by `asclepius pack`")
    starts = [name for name in ("hf", "checkpoint", "random") if getattr(config.init, name)]
    if len(starts) > 1:
        raise UserError(f"{' and '.join(f'init.{name}' for name in starts)} are both set: choose one")
    if config.lora.rank and not (config.init.hf or config.init.checkpoint):
        raise UserError(
            f"lora.rank is {config.lora.rank}, but there are no weights to adapt: set them with --init.hf or "
            "--init.checkpoint"
        )


def check_lora(config: TrainConfig) -> None:
    lora = config.lora
    if lora.rank < 0:
        raise UserError(f"lora.rank is {lora.rank}: it must be 1 or more, or 0 to train everything")
    unknown = [name for name in lora.targets if name not in LORA_TARGETS]
    if unknown or not lora.targets or len(set(lora.targets)) < len(lora.targets):
        raise UserError(
            f"lora.targets is {' '.join(lora.targets) or 'empty'}: use some of {' '.join(LORA_TARGETS)}, no repeats"
        )


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
