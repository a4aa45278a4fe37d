"""Models to evaluate: a Hugging Face folder, a checkpoint of this project, an endpoint or the rule-based teacher.

    NAME=hf:FOLDER   NAME=checkpoint:RUN   NAME=untrained:FOLDER   NAME=endpoint:MODEL   NAME=offline:   NAME=reference:

A Hugging Face hub id may take the place of the folder. `untrained` has the sizes and the tokenizer of such a folder but
random weights, which shows what training is worth. `reference` repeats the question's reference answer: an upper bound
for the scores and a check of the judge.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from asclepius_jax.evaluate.questions.prompt_formats import CHAT, OURS, as_text, by_chat_template
from asclepius_jax.evaluate.records import Question
from data_prep.contract.errors import UserError
from data_prep.contract.hub import SMALL_FILES, WEIGHTS, local_folder
from data_prep.contract.manifests import MANIFEST
from data_prep.contract.records import text_hash
from data_prep.contract.tokenizer import ids_before
from data_prep.teachers.base import request_seed
from data_prep.teachers.endpoint.replies import one_line

PIECES, PIECE_BYTES = 64, 1 << 16  # samples of a weights file that enter its hash
LEAST_TEMPERATURE = 1e-6  # as in generate.py: lower ones take the most likely token, until float32 makes them 0
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


@dataclass(frozen=True)
class Decoding:
    max_new_tokens: int = 256
    """Maximum length of an answer, in tokens."""

    temperature: float = 0.0
    """Sampling temperature; 0 always takes the most likely token."""

    batch: int = 8
    """Number of questions that a local model answers at once."""

    prompt_format: str = ""
    """Prompt format that combines note and instruction: chat, asclepius, alpaca, vicuna, medalpaca, chatdoctor or
    clinical-camel. Empty uses the model's chat template if it has one, otherwise asclepius."""

    seed: int = 0
    """Random seed for sampling and for the weights of untrained models."""


class LocalModel(Protocol):
    """Model that runs in this process. Its answers are (text, finish reason) pairs."""

    prompt_format: str

    def answer(self, questions: Sequence[Question]) -> list[tuple[str, str]]: ...


def load_model(spec: ModelSpec, decoding: Decoding) -> LocalModel:
    if spec.kind == "checkpoint":
        return Checkpoint(spec, decoding)
    return Transformer(spec, decoding)


class Transformer:
    """Hugging Face model run with transformers, on a GPU if torch finds one."""

    def __init__(self, spec: ModelSpec, decoding: Decoding):
        import torch

        self.decoding = decoding
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.tokenizer, model = self._open(spec)
        except (ModuleNotFoundError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # whatever a damaged folder leads to, panics of the tokenizer included
            raise UserError(f"transformers cannot load {spec.place} ({one_line(error)})") from error
        self.model = model.to(self.device).eval()
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        own = CHAT if self.tokenizer.chat_template else OURS
        self.prompt_format = decoding.prompt_format or own
        if self.prompt_format == CHAT and not self.tokenizer.chat_template:
            raise UserError(f"{spec.place} has no chat template: choose another --decoding.prompt-format")
        self.longest = self.model.config.max_position_embeddings

    def _open(self, spec: ModelSpec) -> tuple[Any, Any]:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        tokenizer = AutoTokenizer.from_pretrained(spec.place, padding_side="left")
        if spec.kind != "untrained":
            return tokenizer, AutoModelForCausalLM.from_pretrained(spec.place, dtype=dtype)
        torch.manual_seed(self.decoding.seed)
        return tokenizer, AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(spec.place), dtype=dtype)

    def answer(self, questions: Sequence[Question]) -> list[tuple[str, str]]:
        import torch

        chat = self.prompt_format == CHAT
        texts = [
            by_chat_template(self.tokenizer, q.note, q.instruction)
            if chat
            else as_text(self.prompt_format, q.note, q.instruction)
            for q in questions
        ]
        inputs = self.tokenizer.pad({"input_ids": self._ids(texts, chat)}, return_tensors="pt").to(self.device)
        length = inputs["input_ids"].shape[1]
        if length + self.decoding.max_new_tokens > self.longest:
            return self._answer_what_fits(questions, length)
        # Each batch gets its own noise, and a rerun the same noise: batches depend on the questions alone.
        torch.manual_seed(request_seed(self.decoding.seed, "evaluated answer", questions[0].id))
        with torch.no_grad():
            out = self.model.generate(**inputs, generation_config=self._settings())
        return [self._read(row.tolist()) for row in out[:, length:]]

    def _ids(self, texts: Sequence[str], chat: bool) -> list[list[int]]:
        """The ids of prompts, as a checkpoint is asked: behind a BOS if the tokenizer has one, without an EOS.

        A rendered chat contains its control tokens; in other prompts, control tokens that a note spells out are text.
        """
        ids = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=not chat)["input_ids"]
        plain, prepared = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        before = [] if chat else ids_before(prepared, plain)
        return [before + each for each in ids]

    def _settings(self) -> Any:
        """Generation settings that are the same for all models, whatever a folder's generation_config.json says.

        Every setting is given: transformers fills a None from that file, or from its own defaults such as top_k = 50.
        """
        from transformers import GenerationConfig

        sampled = self.decoding.temperature > 0
        return GenerationConfig(
            max_new_tokens=self.decoding.max_new_tokens,
            do_sample=sampled,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=self.model.generation_config.eos_token_id,
            bos_token_id=self.model.generation_config.bos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            **({"temperature": self.decoding.temperature, "top_k": 0, "top_p": 1.0} if sampled else {}),
        )

    def _read(self, ids: list[int]) -> tuple[str, str]:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        stop = next((place for place, token in enumerate(ids) if token in ends), None)
        text = self.tokenizer.decode(ids if stop is None else ids[:stop], skip_special_tokens=True)
        return text.strip(), "length" if stop is None else "stop"

    def _answer_what_fits(self, questions: Sequence[Question], length: int) -> list[tuple[str, str]]:
        if len(questions) > 1:
            return [self.answer([question])[0] for question in questions]
        new = self.decoding.max_new_tokens
        return [(f"{length} prompt tokens and {new} new tokens exceed the model's {self.longest}", "too_long")]


class Checkpoint:
    """Checkpoint of this project, decoded by `generate` with the prompt format that it was trained with."""

    def __init__(self, spec: ModelSpec, decoding: Decoding):
        from asclepius_jax.checkpoint.read import of_newest, read_meta
        from asclepius_jax.generate import load_checkpoint

        if decoding.prompt_format not in ("", OURS):
            raise UserError(
                f"{spec.place} is a checkpoint and uses its training prompt: omit --decoding.prompt-format "
                f"{decoding.prompt_format}"
            )
        self.decoding, self.prompt_format = decoding, OURS
        self.template = of_newest(Path(spec.place), read_meta).prompt_template
        self.model, self.params, self.tokenizer = load_checkpoint(spec.place)

    def answer(self, questions: Sequence[Question]) -> list[tuple[str, str]]:
        from asclepius_jax.generate import Sampling, generate
        from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, render_prompt
        from data_prep.contract.tokenizer import encode_prompt

        decoding, template = self.decoding, self.template or TRAINING_TEMPLATE
        prompts = [encode_prompt(self.tokenizer, render_prompt(template, q.note, q.instruction)) for q in questions]
        room = self.model.config.context - decoding.max_new_tokens
        fitting = [prompt for prompt in prompts if len(prompt) <= room]
        # An answer depends on its question alone, and not on the others of its batch.
        seeds = tuple(
            request_seed(decoding.seed, "evaluated answer", question.id)
            for question, prompt in zip(questions, prompts, strict=True)
            if len(prompt) <= room
        )
        sampling = Sampling(decoding.max_new_tokens, decoding.temperature, seeds=seeds)
        dtype = "bfloat16" if on_accelerator() else "float32"
        generated = iter(
            generate(self.model, self.params, fitting, self.tokenizer.ends, sampling, dtype) if fitting else []
        )
        return [self._read(next(generated) if len(prompt) <= room else None, len(prompt)) for prompt in prompts]

    def _read(self, ids: list[int] | None, length: int) -> tuple[str, str]:
        if ids is None:
            return f"{length} prompt tokens leave no room for an answer", "too_long"
        text: Any = self.tokenizer.decode(ids).strip()
        return text, "length" if len(ids) >= self.decoding.max_new_tokens else "stop"


def on_accelerator() -> bool:
    import jax

    return jax.default_backend() != "cpu"
