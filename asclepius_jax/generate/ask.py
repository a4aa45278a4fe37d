"""`asclepius generate`: ask a checkpoint a question."""

import dataclasses
from pathlib import Path
from typing import Literal

from asclepius_jax.checkpoint.read import of_newest, read_meta
from asclepius_jax.config import MeshConfig
from asclepius_jax.generate.batch import generate
from asclepius_jax.generate.load import load_checkpoint
from asclepius_jax.generate.sampling import Sampling, check_sampling
from data_prep.contract.errors import UserError
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, load_template, render_prompt
from data_prep.contract.tables import read_text_file
from data_prep.contract.tokenizer import encode_prompt


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """Ask a checkpoint a question."""

    checkpoint: Path
    """Run folder (its newest step), or RUN/checkpoints/STEP."""
    prompt: str = ""
    """Text to continue as it is, without the prompt template."""
    note: Path | None = None
    """File that holds a note; used with --instruction, in the prompt template of training."""
    instruction: str = ""
    """Instruction or question about the note."""
    prompt_template: str | None = None
    """File that replaces the checkpoint's own prompt template."""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the computation."""


def run(config: GenerateConfig) -> None:
    check_sampling(config.sampling)
    trained = of_newest(config.checkpoint, read_meta).prompt_template or TRAINING_TEMPLATE
    prompt = read_prompt(config, load_template(config.prompt_template) if config.prompt_template else trained)
    model, params, tokenizer = load_checkpoint(config.checkpoint, config.mesh)
    ids = encode_prompt(tokenizer, prompt)
    print(tokenizer.decode(generate(model, params, [ids], tokenizer.ends, config.sampling, config.dtype)[0]))


def read_prompt(config: GenerateConfig, template: str) -> str:
    if config.prompt and (config.note or config.instruction):
        raise UserError("--prompt cannot be combined with --note and --instruction; use either")
    if config.prompt:
        return config.prompt
    if config.note is None or not config.instruction:
        raise UserError("no prompt: set --prompt TEXT, or --note FILE with --instruction TEXT")
    if not config.note.is_file():
        raise UserError(f"--note {config.note}: no such file; check the path")
    return render_prompt(template, read_text_file(config.note), config.instruction)
