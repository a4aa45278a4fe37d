"""Models to evaluate: a Hugging Face folder, a checkpoint of this project, an endpoint or the rule-based teacher.

    NAME=hf:FOLDER   NAME=checkpoint:RUN   NAME=untrained:FOLDER   NAME=endpoint:MODEL   NAME=offline:   NAME=reference:

A Hugging Face hub id may take the place of the folder. `untrained` has the sizes and the tokenizer of such a folder but
random weights, which shows what training is worth. `reference` repeats the question's reference answer: an upper bound
for the scores and a check of the judge.
"""

from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import UserError
from data_prep.contract.hub import SMALL_FILES, WEIGHTS, local_folder

LEAST_TEMPERATURE = (
    1e-6  # as in generate/sampling.py: lower ones take the most likely token, until float32 makes them 0
)
KINDS = ("hf", "checkpoint", "untrained", "endpoint", "offline", "reference")


@dataclass(frozen=True)
class ModelSpec:
    name: str
    kind: str
    place: str  # a folder, or a model's name at the endpoint


def parse_spec(text: str) -> ModelSpec:
    name, equals, rest = text.partition("=")
    kind, colon, place = rest.partition(":")
    if not name or not equals or not colon or kind not in KINDS:
        raise UserError(f"--models {text}: must be NAME=KIND:PLACE, with KIND one of {', '.join(KINDS)}")
    if "/" in name or name.startswith("."):
        raise UserError(f"--models {text}: NAME becomes a folder name: it must not contain / or start with a dot")
    if kind in ("hf", "untrained"):
        place = str(local_folder(place, WEIGHTS if kind == "hf" else SMALL_FILES))
    if kind in ("hf", "untrained") and not (Path(place) / "config.json").is_file():
        raise UserError(f"--models {text}: {place} is not a Hugging Face folder: config.json is missing")
    if kind == "checkpoint" and not Path(place).is_dir():
        raise UserError(f"--models {text}: {place} is not a folder")
    if kind == "endpoint" and not place:
        raise UserError(f"--models {text}: the model's name at the endpoint is missing; give NAME=endpoint:MODEL")
    return ModelSpec(name, kind, place)


@dataclass(frozen=True)
class Decoding:
    max_new_tokens: int = 256
    """Maximum length of an answer, in tokens."""

    temperature: float = 0.0
    """Sampling temperature; 0 always takes the most likely token."""

    batch: int = 0
    """Number of questions that a local model answers at once; 0 takes 32, and 8 with transformers."""

    prompt_format: str = ""
    """Prompt format that combines note and instruction: chat, asclepius, alpaca, vicuna, medalpaca, chatdoctor or
    clinical-camel. Empty uses the model's chat template if it has one, otherwise asclepius."""

    seed: int = 0
    """Random seed for sampling and for the weights of untrained models."""


def too_long(length: int, new: int, longest: int) -> tuple[str, str]:
    """The text and finish reason in place of an answer, if its prompt leaves no room for one."""
    return f"{length} prompt tokens and {new} new tokens exceed the model's {longest}", "too_long"
