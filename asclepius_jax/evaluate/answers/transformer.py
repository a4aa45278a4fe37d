"""Hugging Face models: their prompts as transformers makes them, and models that run in transformers itself."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from asclepius_jax.evaluate.answers.specs import Decoding, ModelSpec, too_long
from asclepius_jax.evaluate.questions.prompt_formats import CHAT, OURS, as_text, by_chat_template
from asclepius_jax.evaluate.records import Question
from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer import ids_before
from data_prep.teachers.base import request_seed
from data_prep.teachers.endpoint.replies import one_line

BATCH = 8  # questions that transformers answers at once


class HubPrompts:
    """Prompts and answers of a Hugging Face folder as ids, by its own tokenizer."""

    def __init__(self, place: str, decoding: Decoding):
        from transformers import AutoTokenizer

        with loading(place):
            self.tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        own = CHAT if self.tokenizer.chat_template else OURS
        self.prompt_format = decoding.prompt_format or own
        if self.prompt_format == CHAT and not self.tokenizer.chat_template:
            raise UserError(f"{place} has no chat template: choose another --decoding.prompt-format")

    def ids(self, questions: Sequence[Question]) -> list[list[int]]:
        """The ids of prompts, as a checkpoint is asked: behind a BOS if the tokenizer has one, without an EOS.

        A rendered chat contains its control tokens; in other prompts, control tokens that a note spells out are text.
        """
        chat = self.prompt_format == CHAT
        texts = [
            by_chat_template(self.tokenizer, q.note, q.instruction)
            if chat
            else as_text(self.prompt_format, q.note, q.instruction)
            for q in questions
        ]
        ids = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=not chat)["input_ids"]
        plain, prepared = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        before = [] if chat else ids_before(prepared, plain)
        return [before + each for each in ids]

    def text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()


@contextlib.contextmanager
def loading(place: str) -> Iterator[None]:
    """Turn any failure of transformers to load a folder into a UserError."""
    try:
        yield
    except (ModuleNotFoundError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # whatever a damaged folder leads to, panics of the tokenizer included
        raise UserError(f"transformers cannot load {place} ({one_line(error)})") from error


class Transformer:
    """Hugging Face model run with transformers, on a GPU if torch finds one."""

    def __init__(self, spec: ModelSpec, decoding: Decoding):
        import torch

        self.decoding = decoding
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.prompts = HubPrompts(spec.place, decoding)
        self.prompt_format = self.prompts.prompt_format
        with loading(spec.place):
            model = self._open(spec)
        self.model = model.to(self.device).eval()
        self.longest = self.model.config.max_position_embeddings

    def _open(self, spec: ModelSpec) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        if spec.kind != "untrained":
            return AutoModelForCausalLM.from_pretrained(spec.place, dtype=dtype)
        torch.manual_seed(self.decoding.seed)
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(spec.place), dtype=dtype)

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, tuple[str, str]]]:
        """Answers in batches of similar length, which need little padding.

        The longest come first, so that running out of memory shows early."""
        size = self.decoding.batch or BATCH
        places = sorted(range(len(questions)), key=lambda place: -len(questions[place].note))
        for start in range(0, len(places), size):
            batch = places[start : start + size]
            yield from zip(batch, self.answer([questions[place] for place in batch]), strict=True)

    def answer(self, questions: Sequence[Question]) -> list[tuple[str, str]]:
        """The answers to one batch of questions."""
        import torch

        tokenizer = self.prompts.tokenizer
        inputs = tokenizer.pad({"input_ids": self.prompts.ids(questions)}, return_tensors="pt").to(self.device)
        length = inputs["input_ids"].shape[1]
        if length + self.decoding.max_new_tokens > self.longest:
            return self._answer_what_fits(questions, length)
        # Each batch gets its own noise, and a rerun the same noise: batches depend on the questions alone.
        torch.manual_seed(request_seed(self.decoding.seed, "evaluated answer", questions[0].id))
        with torch.no_grad():
            out = self.model.generate(**inputs, generation_config=self._settings())
        return [self._read(row.tolist()) for row in out[:, length:]]

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
            pad_token_id=self.prompts.tokenizer.pad_token_id,
            **({"temperature": self.decoding.temperature, "top_k": 0, "top_p": 1.0} if sampled else {}),
        )

    def _read(self, ids: list[int]) -> tuple[str, str]:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        stop = next((place for place, token in enumerate(ids) if token in ends), None)
        return self.prompts.text(ids if stop is None else ids[:stop]), "length" if stop is None else "stop"

    def _answer_what_fits(self, questions: Sequence[Question], length: int) -> list[tuple[str, str]]:
        if len(questions) > 1:
            return [self.answer([question])[0] for question in questions]
        return [too_long(length, self.decoding.max_new_tokens, self.longest)]
