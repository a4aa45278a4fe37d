"""Follow-up turns: made from note and history; every answer trained on, nothing else; the ids of the chat template."""

import dataclasses
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, chat_template, render_follow_up, render_prompt
from data_prep.contract.records import Example, Turn
from data_prep.contract.tokenizer import JsonTokenizer, SentencePieceTokenizer
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.gate import GateConfig
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.notes import NotesConfig
from data_prep.teachers.offline.note_view import NOT_STATED
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.made_inputs import GENERATION, example
from tests.helpers.packed import documents, packed
from tests.helpers.text_stages import api, write_reports
from tests.helpers.text_stages import read_examples as read

ROW = 2048


def conversation(name: str, *turns: tuple[str, str]) -> Example:
    (question, answer), *later = turns
    follow_ups = tuple(Turn("Summarization", q, a, GENERATION, GENERATION) for q, a in later)
    return dataclasses.replace(
        example(name, f"HPI: fever for 3 days,  {name}.", question, answer), follow_ups=follow_ups
    )


EXAMPLES = [
    conversation("one", ("How long?", "For 3 days.")),
    conversation("two", ("How long?", "For 3 days."), ("  And   then? \n", "  It went.\n")),
    conversation("three", ("Which sign?", "Fever."), ("Since when?", "3 days."), ("Any </s> drug?", "No </s> drug.")),
]


def trained_texts(ids: list[int], mask: list[bool], tokenizer: JsonTokenizer) -> list[str]:
    """Each stretch of tokens that is trained on, with its end-of-text token spelled out."""
    texts, stretch = [], []
    for token, kept in zip([*ids, -1], [*mask, False], strict=True):
        if kept:
            stretch.append(token)
        elif stretch:
            # Decoded after a newline, as it stands in the row.
            newline = tokenizer.encode_batch(["\n"])[0]
            end = "<end>" if stretch[-1] == tokenizer.eos_id else ""
            texts.append(tokenizer.decode([*newline, *stretch]).removeprefix("\n") + end)
            stretch = []
    return texts


def test_every_answer_is_trained_on_and_nothing_else(tmp_path: Path, small_tokenizer: Path):
    folder = packed(tmp_path, EXAMPLES, small_tokenizer, row_length=ROW)
    tokenizer = JsonTokenizer(small_tokenizer)
    found = documents(folder)
    assert sorted(trained_texts(ids, mask, tokenizer) for ids, mask in found) == sorted(
        [f"{text.strip()}<end>" for text in (e.answer, *(turn.answer for turn in e.follow_ups))] for e in EXAMPLES
    )
    assert all(ids.count(tokenizer.bos_id) == 1 for ids, _ in found)
    assert sorted(ids.count(tokenizer.eos_id) for ids, _ in found) == [1, 2, 3]


@pytest.mark.parametrize("kind", ["tokenizer.json", "SentencePiece"])
def test_packed_ids_are_those_of_the_chat_template(tmp_path: Path, small_tokenizer, mistral_tokenizer, kind: str):
    """All of a conversation, the last answer and its end included, as transformers renders and encodes it."""
    transformers = pytest.importorskip("transformers")
    source = mistral_tokenizer if kind == "SentencePiece" else small_tokenizer
    written = SentencePieceTokenizer(source) if kind == "SentencePiece" else JsonTokenizer(source)
    folder = packed(tmp_path, EXAMPLES[:2], source, row_length=ROW)
    written.save(tmp_path / "hf")
    ours = JsonTokenizer(tmp_path / "hf")
    bos, eos = ours.token(ours.bos_id), ours.token(ours.eos_id)
    template = chat_template(TRAINING_TEMPLATE, bos, eos, ours.special_tokens())
    (tmp_path / "hf/chat_template.jinja").write_text(template)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for e in EXAMPLES[:2]:
        messages = [{"role": "system", "content": e.note}]
        for question, answer in ((e.question, e.answer), *((t.question, t.answer) for t in e.follow_ups)):
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rendered = theirs.apply_chat_template(messages, return_dict=True)["input_ids"]
        assert rendered in [ids for ids, _ in documents(folder)], theirs.decode(rendered)


def test_a_long_conversation_loses_the_end_of_its_note_only(tmp_path: Path, small_tokenizer: Path):
    long = dataclasses.replace(EXAMPLES[1], note=EXAMPLES[1].note + " word" * 400)
    folder = packed(tmp_path, [long], small_tokenizer, row_length=512)
    tokenizer = JsonTokenizer(small_tokenizer)
    ((ids, mask),) = documents(folder)
    assert trained_texts(ids, mask, tokenizer) == ["For 3 days.<end>", "It went.<end>"]
    assert len(ids) <= 512
    assert render_follow_up(TRAINING_TEMPLATE, "And   then?") in tokenizer.decode(ids)


def test_a_template_without_room_for_turns_is_refused(tmp_path: Path, small_tokenizer: Path):
    template = tmp_path / "template.txt"
    template.write_text("{instruction}\n{note}\nA:\n")
    with pytest.raises(UserError, match="--follow-ups 0"):
        packed(tmp_path, EXAMPLES, small_tokenizer, row_length=ROW, prompt_template=str(template))
    packed(tmp_path, EXAMPLES[:1], small_tokenizer, row_length=ROW, prompt_template=str(template))


# ---------------------------------------------------------------- making them


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("notes")
    notes.run(NotesConfig(write_reports(folder / "a.jsonl", 6), folder / "notes"))
    return folder / "notes"


def test_the_offline_teacher_asks_on_and_answers_from_the_note(tmp_path: Path):
    notes.run(NotesConfig("data_prep/ingest/demo_reports.jsonl", tmp_path / "notes"))
    instructions.run(InstructionsConfig(tmp_path / "notes", tmp_path / "out", follow_ups=2))
    examples, _ = read(tmp_path / "out")
    turns = [turn for e in examples for turn in e.follow_ups]
    # Some notes have nothing sure to ask for a task, such as a sentence that can be said in other words.
    assert len(turns) >= 1.5 * len(examples)
    assert sum(turn.answer != NOT_STATED for turn in turns) > 0.7 * len(turns)
    for e in examples:
        questions = [e.question, *(turn.question for turn in e.follow_ups)]
        assert len(set(questions)) == len(questions)


def test_each_turn_is_shown_what_came_before(tmp_path: Path, source: Path):
    def answer(body, number):
        return completion(f"reply number {number} about the fever and its course")

    with FakeEndpoint(answer) as endpoint:
        config = InstructionsConfig(
            source, tmp_path / "out", follow_ups=2, pool_notes=0, teacher=api(endpoint), gate=GateConfig("keep")
        )
        instructions.run(config)
    examples, rejects = read(tmp_path / "out")
    assert not rejects
    assert len(endpoint.requests) == 6 * len(examples)
    asked = [request["messages"][-1]["content"] for request in endpoint.requests]
    for e in examples:
        history = f"Instruction: {e.question}\nAnswer: {e.answer}"
        first, second = e.follow_ups
        assert sum(history in text for text in asked) == 4
        (last,) = [text for text in asked if f"Last instruction:\n{second.question}" in text]
        assert f"{history}\n\nInstruction: {first.question}\nAnswer: {first.answer}" in last
        assert e.note.strip() in last


def test_a_turn_that_is_rejected_ends_the_conversation_before_it(tmp_path: Path, source: Path):
    def answer(body, number):
        text = body["messages"][-1]["content"]
        if "Last instruction:" in text and text.count("Answer:") > 2:
            return completion("cut", "length")
        return completion(f"reply number {number} about the fever and its course")

    with FakeEndpoint(answer) as endpoint:
        config = InstructionsConfig(
            source, tmp_path / "out", follow_ups=2, pool_notes=0, teacher=api(endpoint), gate=GateConfig("keep")
        )
        instructions.run(config)
    examples, rejects = read(tmp_path / "out")
    assert [len(e.follow_ups) for e in examples] == [1] * len(examples)
    assert [(reject.id, reject.reason) for reject in rejects] == [(f"{e.id}.1", "truncated") for e in examples]


def test_a_prompt_is_the_first_turn_of_a_conversation():
    """The template's part from the end of the note on is repeated, to the character."""
    first = render_prompt(TRAINING_TEMPLATE, "NOTE", "x")
    assert first.endswith("NOTE" + render_follow_up(TRAINING_TEMPLATE, "x"))
