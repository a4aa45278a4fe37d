"""From chat messages to the tokens that a model reads: a checkpoint's training prompt, or a folder's chat template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from asclepius_jax.generate.serve.api_errors import ApiError
from asclepius_jax.generate.serve.chat_request import Message
from data_prep.contract.errors import UserError, first_line
from data_prep.contract.prompt.training_prompt import follow_up_parts, render_follow_up, render_prompt
from data_prep.contract.tokenizer import JsonTokenizer, encode_after_end, encode_continuations, encode_prompt

PROBE = "probe of the note"


class Prompts(Protocol):
    """A way to write messages as a prompt. Not safe for use by several threads."""

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a prompt. Raises ApiError for messages that the model has no form for."""


class TrainingPrompts:
    """The prompt of training: the system message is the note, user messages are instructions."""

    def __init__(self, template: str, tokenizer: JsonTokenizer):
        self.template, self.tokenizer = template, tokenizer
        self.follow_ups = follow_up_parts(template) is not None

    def ids(self, messages: Sequence[Message]) -> list[int]:
        roles = [message.role for message in messages]
        turns = (len(roles) - 2) // 2 if self.follow_ups else 0
        if roles != ["system", "user"] + ["assistant", "user"] * turns:
            later = ", then answers as assistant and further instructions as user in turn" if self.follow_ups else ""
            raise ApiError(f"Send the note as system and the instruction as user{later}.", "messages", "invalid_value")
        note, instruction, *later_texts = (message.content for message in messages)
        ids = encode_prompt(self.tokenizer, render_prompt(self.template, note, instruction))
        if not turns:
            return ids
        # As the pack stage encodes the turns of a conversation.
        answers = encode_continuations(self.tokenizer, [text.strip() for text in later_texts[::2]])
        questions = [render_follow_up(self.template, text) for text in later_texts[1::2]]
        for answer, question in zip(answers, encode_after_end(self.tokenizer, questions), strict=True):
            ids += [*answer, self.tokenizer.eos_id, *question]
        return ids


class ChatTemplatePrompts:
    """The chat template of a Hugging Face folder, applied by transformers."""

    def __init__(self, folder: Path):
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (ModuleNotFoundError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of its Rust code is not an Exception
            raise UserError(f"transformers cannot load the tokenizer of {folder} ({first_line(error)})") from error
        if not self.tokenizer.chat_template:
            raise UserError(
                f"{folder} has no chat template, as base models have none: serve an instruction-tuned model, or save "
                "the template that it was tuned with as chat_template.jinja"
            )
        self.takes_system = self._takes_system()

    def _takes_system(self) -> bool:
        """Some templates reject a system message, others drop it silently."""
        try:
            return PROBE in self._text([Message("system", PROBE), Message("user", "x")])
        except Exception:  # noqa: BLE001 - a template may raise any exception
            return False

    def _text(self, messages: Sequence[Message]) -> str:
        given = [{"role": message.role, "content": message.content} for message in messages]
        return self.tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True)

    def ids(self, messages: Sequence[Message]) -> list[int]:
        first, *later = messages
        if first.role == "system" and not self.takes_system and later and later[0].role == "user":
            messages = [Message("user", f"{first.content}\n\n{later[0].content}"), *later[1:]]
        try:
            text = self._text(messages)
        except Exception as error:
            reason = first_line(error)
            raise ApiError(
                f"The chat template of this model refuses these messages: {reason}", "messages", "invalid_value"
            ) from error
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
