"""Messages become the tokens that training and transformers make of them."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from asclepius_jax.generate.serve.api_errors import ApiError
from asclepius_jax.generate.serve.chat_prompts import ChatTemplatePrompts, TrainingPrompts
from asclepius_jax.generate.serve.chat_request import Message
from data_prep.contract.errors import UserError
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, chat_template
from data_prep.contract.tokenizer import JsonTokenizer
from data_prep.pack.documents import turn_documents
from tests.helpers.endpoints.served import CHAT
from tests.helpers.made_inputs import example

transformers = pytest.importorskip("transformers")

NOTE = Message("system", " Fever for 3 days,\n temperature 39.5 °C. {instruction} \n")
QUESTION = Message("user", "Which fever? ")
ANSWER, LATER = Message("assistant", " 39.5 °C.\n"), Message("user", "\nFor how long?")


@pytest.fixture(scope="module")
def exported(small_tokenizer: Path, tmp_path_factory):
    """transformers' tokenizer, with the chat template that `export` writes."""
    folder, tokenizer = tmp_path_factory.mktemp("exported"), JsonTokenizer(small_tokenizer)
    tokenizer.save(folder, trained=True)
    names = tokenizer.token(tokenizer.bos_id), tokenizer.token(tokenizer.eos_id), tokenizer.special_tokens()
    (folder / "chat_template.jinja").write_text(chat_template(TRAINING_TEMPLATE, *names))
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def training(small_tokenizer: Path) -> TrainingPrompts:
    return TrainingPrompts(TRAINING_TEMPLATE, JsonTokenizer(small_tokenizer))


@pytest.mark.parametrize(
    "messages", [[NOTE, QUESTION], [NOTE, QUESTION, ANSWER, LATER], [NOTE, *[QUESTION, ANSWER] * 3, LATER]]
)
def test_the_prompt_of_a_checkpoint_is_that_of_its_exported_template(training, exported, messages: list[Message]):
    given = [dataclasses.asdict(message) for message in messages]
    expected = exported.apply_chat_template(given, add_generation_prompt=True)["input_ids"]
    assert training.ids(messages) == expected


def test_a_conversation_is_that_of_training(training):
    made = example("e", NOTE.content, QUESTION.content, ANSWER.content)
    first, _ = next(iter(turn_documents([made], training.tokenizer, TRAINING_TEMPLATE)))[0], None
    prompt, whole = training.ids([NOTE, QUESTION]), training.ids([NOTE, QUESTION, ANSWER, LATER])
    assert whole[: len(prompt) + len(first.tokens)] == [*prompt, *first.tokens]


def test_a_control_token_in_a_note_is_text(training):
    eos = training.tokenizer.eos_id
    ids = training.ids([Message("system", f"a {training.tokenizer.token(eos)} b"), QUESTION])
    assert eos not in ids


@pytest.mark.parametrize(
    "messages", [[QUESTION], [NOTE], [NOTE, QUESTION, ANSWER], [NOTE, QUESTION, LATER], [QUESTION, NOTE]]
)
def test_messages_without_a_form_in_training_are_refused(training, messages: list[Message]):
    with pytest.raises(ApiError, match="Send the note as system and the instruction as user, then answers") as refused:
        training.ids(messages)
    assert refused.value.status == 400


def test_a_template_with_the_instruction_first_takes_one_turn(small_tokenizer: Path):
    prompts = TrainingPrompts("{instruction}\n{note}\n", JsonTokenizer(small_tokenizer))
    assert prompts.ids([NOTE, QUESTION])
    with pytest.raises(ApiError, match=r"instruction as user\.$"):
        prompts.ids([NOTE, QUESTION, ANSWER, LATER])


# ---------------------------------------------------------------- Hugging Face folders


def folder_with(template: str, tokenizer: Path, folder: Path) -> Path:
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_chat_template_is_applied_as_transformers_does(small_tokenizer: Path, tmp_path):
    folder = folder_with(CHAT, small_tokenizer, tmp_path / "model")
    messages = [NOTE, QUESTION, ANSWER, LATER]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    given = [dataclasses.asdict(message) for message in messages]
    expected = theirs.apply_chat_template(given, add_generation_prompt=True)["input_ids"]
    assert ChatTemplatePrompts(folder).ids(messages) == expected


@pytest.mark.parametrize(
    "guard",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT,
        CHAT.replace("messages %}", "messages if m.role != 'system' %}"),
    ],
)
def test_a_template_without_system_messages_gets_the_note_with_the_question(guard: str, small_tokenizer, tmp_path):
    prompts = ChatTemplatePrompts(folder_with(guard, small_tokenizer, tmp_path / "model"))
    joined = Message("user", f"{NOTE.content}\n\n{QUESTION.content}")
    assert prompts.ids([NOTE, QUESTION, ANSWER, LATER]) == prompts.ids([joined, ANSWER, LATER])
    assert "Fever for 3 days" in prompts.tokenizer.decode(prompts.ids([NOTE, QUESTION]))


def test_messages_that_a_template_refuses_are_the_clients_error(small_tokenizer: Path, tmp_path):
    template = "{% if messages | length > 2 %}{{ raise_exception('roles must alternate') }}{% endif %}" + CHAT
    prompts = ChatTemplatePrompts(folder_with(template, small_tokenizer, tmp_path / "model"))
    with pytest.raises(ApiError, match="refuses these messages: roles must alternate"):
        prompts.ids([NOTE, QUESTION, QUESTION])


def test_a_base_model_is_refused(small_tokenizer: Path, tmp_path):
    with pytest.raises(UserError, match=r"has no chat template, as base models have none: serve an instruction-tuned"):
        ChatTemplatePrompts(Path(shutil.copytree(small_tokenizer, tmp_path / "base")))
