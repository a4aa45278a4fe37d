"""Prompt formats that combine a note and an instruction into a model's input.

Each model is asked in the format that it was trained with, because it answers worse in another. Formats of other
models are those that their authors publish. `chat` is the chat template of the model's own folder or endpoint.
"""

from collections.abc import Sequence
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, render_prompt

CHAT = "chat"
OURS = "asclepius"
# Sources: the README of tatsu-lab/stanford_alpaca; FastChat's conversation "vicuna_v1.1"; the model card of
# medalpaca/medalpaca-7b; chat.py of Kent0n-Li/ChatDoctor; the model card of wanglab/ClinicalCamel-70B (Llama-2 with
# turns named as in FastChat).
TEMPLATES = {
    OURS: TRAINING_TEMPLATE,
    "alpaca": (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{note}"
        "\n\n### Response:\n"
    ),
    "vicuna": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: {instruction}\n\n{note} ASSISTANT:"
    ),
    "medalpaca": "Context: {note}\n\nQuestion: {instruction}\n\nAnswer: ",
    "chatdoctor": (
        "If you are a doctor, please answer the medical questions based on the patient's description.\n\n"
        "Patient: {instruction}\n\n{note}\n\nChatDoctor: "
    ),
    "clinical-camel": "USER: {instruction}\n\n{note}\nASSISTANT: ",
}
PROBE = "probe of the note"
FORMATS = (CHAT, *TEMPLATES)


def check_format(name: str) -> None:
    if name and name not in FORMATS:
        raise UserError(f"prompt format {name!r}: must be one of {', '.join(FORMATS)}")


def as_text(name: str, note: str, instruction: str) -> str:
    """Prompt as plain text, in any format except `chat`."""
    return render_prompt(TEMPLATES[name], note, instruction)


def as_messages(note: str, instruction: str, system: bool = True) -> Sequence[dict[str, str]]:
    """Prompt as chat messages, without a system message for models that do not accept one."""
    if system:
        return [{"role": "system", "content": note.strip()}, {"role": "user", "content": instruction.strip()}]
    return [{"role": "user", "content": f"{note.strip()}\n\n{instruction.strip()}"}]


def by_chat_template(tokenizer: Any, note: str, instruction: str) -> str:
    """Prompt rendered by a transformers tokenizer's chat template, special tokens included.

    Raises UserError if the template fails with and without a system message."""

    def rendered(note: str, system: bool) -> str:
        messages = as_messages(note, instruction, system)
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    problem: Exception | str = "it omits the note"
    for system in (True, False):
        try:
            # Some templates reject a system message, others silently drop it and the note with it.
            if PROBE in rendered(PROBE, system):
                return rendered(note, system)
        except Exception as error:  # noqa: BLE001 - a template may raise any exception
            problem = error
    raise UserError(
        "the model's chat template accepts neither a system and a user message nor a user message alone "
        f"({problem}): choose another --decoding.prompt-format"
    )
