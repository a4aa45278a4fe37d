"""How a note and an instruction become a model's input: each model is asked in the form that it was trained with.

The forms of other models are those that their authors publish, since a model that is asked otherwise answers worse.
`chat` is the chat template of the model's own folder or endpoint.
"""

from collections.abc import Sequence
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.training_prompt import TRAINING_TEMPLATE, render_prompt

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
        raise UserError(f"prompt format {name!r}: it must be one of {', '.join(FORMATS)}")


def as_text(name: str, note: str, instruction: str) -> str:
    """The prompt as plain text, in any format but `chat`."""
    return render_prompt(TEMPLATES[name], note, instruction)


def as_messages(note: str, instruction: str, system: bool = True) -> Sequence[dict[str, str]]:
    """The prompt as chat messages; in one where the model knows no system message."""
    if system:
        return [{"role": "system", "content": note.strip()}, {"role": "user", "content": instruction.strip()}]
    return [{"role": "user", "content": f"{note.strip()}\n\n{instruction.strip()}"}]


def by_chat_template(tokenizer: Any, note: str, instruction: str) -> str:
    """The text that a transformers tokenizer's template makes, with its own special tokens in it."""

    def rendered(note: str, system: bool) -> str:
        messages = as_messages(note, instruction, system)
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    problem: Exception | str = "it leaves the note out"
    for system in (True, False):
        try:
            # Some templates refuse a system message, others leave it out without a word, and the note with it.
            if PROBE in rendered(PROBE, system):
                return rendered(note, system)
        except Exception as error:  # noqa: BLE001 - a template raises what it likes
            problem = error
    raise UserError(f"the model's chat template takes neither a system and a user message nor one of a user: {problem}")
