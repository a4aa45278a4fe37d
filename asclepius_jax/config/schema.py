"""One tree of frozen dataclasses: the schema of a training run, and the only home of its defaults.

A file in `configs/` holds values and is found by name, the command line edits a leaf
(`--optimizer.learning-rate 1e-5`), and a function receives its branch.
"""

from dataclasses import dataclass, field, replace
from typing import Literal


@dataclass(frozen=True)
class InitConfig:
    """Source of the initial parameters; random without one. A run that resumes from its own checkpoint ignores it."""

    hf: str = ""
    """Hugging Face folder with safetensors, or a hub id such as HuggingFaceTB/SmolLM2-135M."""
    checkpoint: str = ""
    """Run folder, or RUN/checkpoints/STEP; only its parameters are loaded."""
    branch: str = ""
    """RUN/checkpoints/STEP of another run to continue in this run's folder, with its optimizer state and its place in
    the data. Schedule and data may differ from that run's."""
    random: bool = False
    """Allow instruction tuning to start from random weights."""
    seed: int = 0
    """Seed of random parameters."""


@dataclass(frozen=True)
class DataConfig:
    """Packed rows."""

    path: tuple[str, ...] = ()
    """Folder written by `asclepius pack`, or several as NAME=PATH:WEIGHT, whose rows are mixed in these proportions."""
    eval_path: tuple[str, ...] = ()
    """Packed folder of held-out rows, or several as NAME=PATH, each with a loss of its own; empty turns evaluation
    off."""
    row_length: int = 2048
    """Tokens per row; every folder must be packed to this length."""
    epochs: float = 1.0
    """Passes over the rows, of the first folder if there are several; they determine the number of steps. Rows that do
    not fill the last batch are left out."""
    seed: int = 0
    """Random seed for shuffling rows."""

    def __post_init__(self) -> None:
        for name in ("path", "eval_path"):  # one folder may be given as a string, here and in a saved configuration
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(filter(None, [value] if isinstance(value, str) else value)))


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
    matmul: Literal["bfloat16", "float8", "int8"] = "bfloat16"
    """Type of the products with the blocks' matrices while training. bfloat16: that of compute.dtype. float8: for Ada,
    Hopper and newer GPUs and tpu7x. int8: for TPU v5e, v5p and v6e. Other devices compute the same, and no faster."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, and the schedule of its learning rate."""

    learning_rate: float | None = None
    """Peak learning rate; by default 2e-5, and 2e-4 for adapters."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Learning rate after the warmup. cosine, linear: decay over the rest of the run. constant: the peak. wsd: the peak
    until a final, linear decay (warmup, stable, decay)."""
    warmup_fraction: float = 0.03
    """Fraction of all steps spent on linear warmup."""
    decay_steps: int = 0
    """Steps of the final decay of schedule wsd; 0 for a tenth of all. A run with init.branch decays from that
    checkpoint on, and ends after these steps."""
    final_fraction: float = 0.0
    """Learning rate at the end of a decay as a fraction of the peak."""
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


# Peak learning rates of full tuning and of adapters, which need some ten times as much (arXiv 2106.09685, appendix D).
FULL_RATE, ADAPTER_RATE = 2e-5, 2e-4
# Matrices of a block that may have an adapter, by their names in the configuration.
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685), trained beside frozen weights."""

    rank: int = 0
    """Rank of the adapters; 0 trains every parameter instead."""
    alpha: float = 16.0
    """Numerator of the scale of adapters, which is alpha / rank."""
    targets: tuple[str, ...] = LORA_TARGETS
    """Matrices of each block that have adapters."""
    dropout: float = 0.0
    """Probability of dropping an input of an adapter in training."""
    base_dtype: Literal["float32", "bfloat16", "int8", "nf4"] = "bfloat16"
    """Type in which frozen matrices are stored. bfloat16 gives the results of float32 where the step computes in
    bfloat16. int8 and nf4 (QLoRA, arXiv 2305.14314) quantize the matrices of the blocks to 8.5 and 4.5 bits per
    value; everything else is then bfloat16."""
    rank_stabilized: bool = False
    """Scale adapters by alpha / sqrt(rank) instead of alpha / rank (rsLoRA, arXiv 2312.03732)."""
    magnitudes: bool = False
    """Train the length of every output column of the adapted matrices as well (DoRA, arXiv 2402.09353)."""
    b_learning_rate_ratio: float = 1.0
    """Learning rate of the matrices B as a multiple of that of A (LoRA+, arXiv 2402.12354, uses 16)."""
    seed: int = 0
    """Random seed for initial adapters and for dropout."""


@dataclass(frozen=True)
class PreferenceConfig:
    """Preference tuning (DPO, arXiv 2305.18290) on rows packed from pairs."""

    beta: float = 0.0
    """Factor of the log-probability ratios to the reference model, usually 0.1; smaller values let the model move
    further. 0 trains without pairs."""
    anchor_weight: float = 0.0
    """Weight of the cross entropy of preferred answers, in nats per token, which is added to the loss."""


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
    """Number of checkpoints with the lowest held-out loss (of the first set) to keep, among steps that are both saved
    and evaluated."""
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
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    log: LogConfig = field(default_factory=LogConfig)
    few_steps: bool = False
    """Allow a run of fewer than ten updates."""
    profile: int = 0
    """Steps to trace for xprof, from the third step of this start; the trace is saved in the run folder."""


def peak_learning_rate(optimizer: OptimizerConfig, lora: LoraConfig) -> float:
    if optimizer.learning_rate is not None:
        return optimizer.learning_rate
    return ADAPTER_RATE if lora.rank else FULL_RATE


def with_learning_rate(config: TrainConfig) -> TrainConfig:
    """The configuration with the default of the learning rate filled in, so that records of a run state it."""
    rate = peak_learning_rate(config.optimizer, config.lora)
    return replace(config, optimizer=replace(config.optimizer, learning_rate=rate))
