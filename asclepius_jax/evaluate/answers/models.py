"""Local models of an evaluation, decoded in slots by our engine, or by transformers."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from asclepius_jax.evaluate.answers.specs import Decoding, ModelSpec, too_long
from asclepius_jax.evaluate.answers.transformer import HubPrompts, Transformer
from asclepius_jax.evaluate.questions.prompt_formats import OURS
from asclepius_jax.evaluate.records import Question
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, render_prompt
from data_prep.contract.records import text_hash
from data_prep.contract.tokenizer import JsonTokenizer, encode_prompt, load_tokenizer
from data_prep.execution.progress import say
from data_prep.teachers.base import request_seed

PIECES, PIECE_BYTES = 64, 1 << 16  # samples of a weights file that enter its hash


def content_of(spec: ModelSpec) -> str:
    """Hash of a local model's weights and settings, which changes when a folder's contents do.

    Empty for endpoints, the rule-based teacher and the reference."""
    if spec.kind == "checkpoint":
        from asclepius_jax.checkpoint.read import of_newest, read_meta

        name, meta = of_newest(Path(spec.place), lambda step: (step.name, read_meta(step)))
        return text_hash(name, *(f"{k} {v}" for k, v in sorted(meta.checksums.items())))
    if spec.kind not in ("hf", "untrained"):
        return ""
    kinds = (".json", ".jinja", ".model", ".txt") + ((".safetensors", ".bin") if spec.kind == "hf" else ())
    paths = sorted(path for path in Path(spec.place).iterdir() if path.suffix in kinds and path.name != MANIFEST)
    return text_hash(*(f"{path.name} {sampled_hash(path)}" for path in paths))


def sampled_hash(path: Path) -> str:
    """Hash of a file's size and of samples spread evenly over it.

    Samples are enough because training changes every tensor; reading tens of GB would take minutes."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for piece in range(PIECES):
            file.seek(piece * size // PIECES)
            digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()


class LocalModel(Protocol):
    """Model that runs in this process."""

    prompt_format: str

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, tuple[str, str]]]:
        """The place of each question and its answer's text and finish reason, as answers finish."""


class Prompts(Protocol):
    """Prompts of questions as ids, and the text of answers."""

    prompt_format: str

    def ids(self, questions: Sequence[Question]) -> list[list[int]]: ...

    def text(self, ids: Sequence[int]) -> str: ...


def load_model(spec: ModelSpec, decoding: Decoding) -> LocalModel:
    if spec.kind == "checkpoint":
        return checkpoint(spec, decoding)
    if spec.kind == "hf" and not torch_has_the_accelerator():
        from asclepius_jax.model.huggingface.safetensors import FolderError

        try:
            return folder(spec, decoding)
        except FolderError as error:
            say(f"{spec.name} runs in transformers: {error}")
    return Transformer(spec, decoding)


def checkpoint(spec: ModelSpec, decoding: Decoding) -> "Decoded":
    """A checkpoint of this project, asked with the prompt that it was trained with."""
    from asclepius_jax.checkpoint.read import of_newest, read_meta
    from asclepius_jax.generate.load import load_checkpoint_to_decode

    if decoding.prompt_format not in ("", OURS):
        raise UserError(
            f"{spec.place} is a checkpoint and uses its training prompt: omit --decoding.prompt-format "
            f"{decoding.prompt_format}"
        )
    template = of_newest(Path(spec.place), read_meta).prompt_template or TRAINING_TEMPLATE
    loaded = load_checkpoint_to_decode(Path(spec.place))
    return Decoded(TrainingPrompts(loaded.tokenizer, template), loaded[:2], loaded.tokenizer.ends, decoding)


def folder(spec: ModelSpec, decoding: Decoding) -> "Decoded":
    """A Hugging Face folder of a family that our decoder has. Raises FolderError for another one."""
    from asclepius_jax.generate.load import load_folder

    prompts, place = HubPrompts(spec.place, decoding), Path(spec.place)
    return Decoded(prompts, load_folder(place, compute_type()), load_tokenizer(place).ends, decoding)


class TrainingPrompts:
    """Prompts of a checkpoint, in the template that it was trained with."""

    prompt_format = OURS

    def __init__(self, tokenizer: JsonTokenizer, template: str):
        self.tokenizer, self.template = tokenizer, template

    def ids(self, questions: Sequence[Question]) -> list[list[int]]:
        return [encode_prompt(self.tokenizer, render_prompt(self.template, q.note, q.instruction)) for q in questions]

    def text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids)
        return text.strip()


class Decoded:
    """A model in our engine. An answer depends on its question alone, and not on the others."""

    def __init__(self, prompts: Prompts, model_and_params: tuple[Any, Any], ends: Sequence[int], decoding: Decoding):
        self.prompts, self.prompt_format, self.decoding, self.ends = prompts, prompts.prompt_format, decoding, ends
        self.model, self.params = model_and_params

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, tuple[str, str]]]:
        from asclepius_jax.generate.batch import requests_of
        from asclepius_jax.generate.engine import Engine
        from asclepius_jax.generate.replica import Capacity
        from asclepius_jax.generate.sampling import Sampling

        new, longest = self.decoding.max_new_tokens, self.model.config.context
        prompts = self.prompts.ids(questions)
        fitting = [place for place, prompt in enumerate(prompts) if len(prompt) + new <= longest]
        for place in sorted(set(range(len(prompts))) - set(fitting)):
            yield place, too_long(len(prompts[place]), new, longest)
        if not fitting:
            return
        seeds = tuple(request_seed(self.decoding.seed, "evaluated answer", questions[place].id) for place in fitting)
        sampling = Sampling(new, self.decoding.temperature, seeds=seeds)
        capacity = Capacity(
            slots=min(self.decoding.batch or Capacity().slots, len(fitting)),
            max_length=max(len(prompts[place]) for place in fitting) + new,
        )
        engine = Engine(self.model, self.params, self.ends, capacity, compute_type())
        for number, answer in engine.run(requests_of([prompts[place] for place in fitting], sampling)):
            yield fitting[number], (self.prompts.text(answer.tokens), answer.finish)


def compute_type() -> Any:
    import jax

    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def torch_has_the_accelerator() -> bool:
    """Report whether torch can use a GPU here that JAX cannot."""
    import jax

    if jax.default_backend() != "cpu":
        return False
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return bool(torch.cuda.is_available())
