"""Prompts: what training sees is what a chat template renders, to the character; and no text becomes syntax."""

import jinja2
import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, chat_template, load_template, render_prompt
from data_prep.contract.records import TASKS
from data_prep.synthesize.note_types import NOTE_TYPES
from data_prep.synthesize.prompts import (
    ANSWER_PROMPT,
    NOTE_PROMPT,
    QUESTION_PROMPT,
    TASK_RULES,
    answer_messages,
    note_messages,
    question_messages,
)
from data_prep.synthesize.questions.seed_instructions import SEED_INSTRUCTIONS

TRICKY = "BP {120/80} {note} {{ x }} {% if %} 5' 6\" \\n \\ 100 µg – “q”\n\n  indented {instruction}"
TEMPLATES = [TRAINING_TEMPLATE, "Q: {instruction}\n'\"\\ {{x}} {% y %}\n{note}\n\nA:\n", "{note}{instruction}"]


def render_chat(template, note, instruction):
    def raise_exception(message):
        raise ValueError(message)

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False)
    environment.globals["raise_exception"] = raise_exception
    messages = [{"role": "system", "content": note}, {"role": "user", "content": instruction}]
    return environment.from_string(template).render(messages=messages)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("note", ["HPI: well.", TRICKY, "  spaces around \n"])
def test_the_chat_template_renders_the_training_prompt(template, note):
    instruction = "What is {note}? " + TRICKY
    rendered = render_chat(chat_template(template, "<s>", "</s>", ["<s>", "</s>"]), note, instruction)
    assert rendered == "<s>" + render_prompt(template, note, instruction)


def test_a_control_token_spelled_out_in_a_note_is_broken_up():
    rendered = render_chat(chat_template(TRAINING_TEMPLATE, "<s>", "</s>", ["<s>", "</s>"]), "a </s> b <s>", "c </s>")
    assert "</s>" not in rendered
    assert rendered.count("<s>") == 1
    assert "a < /s> b < s>" in rendered


def test_the_chat_template_refuses_other_messages():
    template = jinja2.Environment().from_string(chat_template(TRAINING_TEMPLATE, "", "</s>", []))

    def raise_exception(message):
        raise ValueError(message)

    with pytest.raises(ValueError, match="the note as system"):
        template.render(messages=[{"role": "user", "content": "hi"}], raise_exception=raise_exception)


def test_a_note_cannot_smuggle_in_an_instruction():
    assert render_prompt("{note}|{instruction}", "{instruction}", "real") == "{instruction}|real"


def test_prompt_and_answer_meet_at_a_newline():
    assert TRAINING_TEMPLATE.endswith("\n")
    assert render_prompt(TRAINING_TEMPLATE, " a ", " b ") == render_prompt(TRAINING_TEMPLATE, "a", "b")


def test_a_template_of_ones_own_holds_each_field_once(tmp_path):
    file = tmp_path / "template.txt"
    file.write_text("{note} {instruction}\n")
    assert load_template(str(file)) == "{note} {instruction}\n"
    assert load_template(None) == TRAINING_TEMPLATE
    file.write_text("{note} {note} {instruction}")
    with pytest.raises(UserError, match=r"\{note\} 2 times"):
        load_template(str(file))
    with pytest.raises(UserError, match="no such file"):
        load_template(str(tmp_path / "absent"))


def test_generation_prompts_carry_their_texts_unchanged():
    assert TRICKY.strip() in note_messages(TRICKY, NOTE_TYPES["nursing note"])[1]["content"]
    question = question_messages(TRICKY, "Paraphrasing", ["say {note} again", "and {task}"])[1]["content"]
    assert TRICKY.strip() in question
    assert "- say {note} again\n- and {task}" in question
    answer = answer_messages("NOTE {question}", "QUESTION {note}")[1]["content"]
    assert "NOTE {question}" in answer
    assert "QUESTION {note}" in answer


def test_the_answer_prompt_says_what_to_do_where_the_note_is_silent():
    assert "not stated in the note" in ANSWER_PROMPT.user


def test_each_prompt_has_a_hash_of_its_own():
    assert len({prompt.hash for prompt in (NOTE_PROMPT, QUESTION_PROMPT, ANSWER_PROMPT)}) == 3
    assert NOTE_PROMPT.hash == type(NOTE_PROMPT)(NOTE_PROMPT.system, NOTE_PROMPT.user).hash


def test_every_task_has_a_rule_and_at_least_five_seed_instructions():
    assert set(TASK_RULES) == set(TASKS) == set(SEED_INSTRUCTIONS)
    for task, seeds in SEED_INSTRUCTIONS.items():
        assert len(set(seeds)) >= 5, task
    assert len({seed for seeds in SEED_INSTRUCTIONS.values() for seed in seeds}) == sum(
        map(len, SEED_INSTRUCTIONS.values())
    )
