"""The offline teacher, which dispatches requests to the rules for notes, questions and answers."""

import itertools
import json
import re
from collections.abc import Sequence
from functools import partial

from data_prep.clinical_text.words import word_set
from data_prep.contract.records import TASKS
from data_prep.teachers.base import Reply, Request
from data_prep.teachers.offline.citing import TRIES, cited_answer, first_citable
from data_prep.teachers.offline.note import compose
from data_prep.teachers.offline.note_view import NOT_STATED, NoteView, read_note, sentence_case
from data_prep.teachers.offline.tasks.coreference import COREFERENCE_FORMS
from data_prep.teachers.offline.tasks.entities_and_abbreviations import ABBREVIATION_FORMS, NER_FORMS
from data_prep.teachers.offline.tasks.forms import Form, ask, find_form
from data_prep.teachers.offline.tasks.paraphrasing import PARAPHRASE_FORMS
from data_prep.teachers.offline.tasks.question_answering import QUESTION_FORMS
from data_prep.teachers.offline.tasks.relation_extraction import RELATION_FORMS
from data_prep.teachers.offline.tasks.summarization import SUMMARY_FORMS
from data_prep.teachers.offline.tasks.temporal import TEMPORAL_FORMS

FORMS: dict[str, tuple[Form, ...]] = dict(
    zip(
        TASKS,
        (
            NER_FORMS,
            ABBREVIATION_FORMS,
            RELATION_FORMS,
            TEMPORAL_FORMS,
            COREFERENCE_FORMS,
            PARAPHRASE_FORMS,
            SUMMARY_FORMS,
            QUESTION_FORMS,
        ),
        strict=True,
    )
)
CONTENT_WORD = re.compile(r"[a-z][a-z-]{3,}")
QUESTION_WORDS = word_set("""
what which when where whom whose does note patient patient's this that these those with from according there
have about list give were would could should describe describes state states stated mention mentions mentioned
record recorded section please
""")


DRAWS = 12  # candidate follow-up questions, of which the one closest to the last answer is asked


class OfflineTeacher:
    """A `Teacher` without a model: extractive, deterministic, free."""

    name = "offline"
    model = "rules-1"

    async def close(self) -> None:
        """There is nothing to close."""

    async def ask(self, request: Request) -> Reply:
        inputs = request.inputs
        match request.kind:
            case "note":
                text, reason = compose(inputs["report"], inputs["note_type"])
                if reason:
                    return Reply(reason, "declined", self.model)
            case "question":
                text = ask_question(inputs["note"], inputs["task"], request.seed, "cite" in inputs)
                if not text:
                    return Reply(f"the note has nothing sure to ask about for {inputs['task']}", "declined", self.model)
            case "follow_up":
                text = ask_further(inputs["note"], inputs["task"], json.loads(inputs["history"]), request)
            case "answer" | "follow_up_answer":
                text = answer_question(inputs["note"], inputs["task"], inputs["question"], "cite" in inputs)
                if "cite" in inputs:
                    text = cited_answer(inputs["note"], inputs["question"], text)
            case "repair":
                text = inputs[
                    "text"
                ]  # rules would write the same text again; the gate deletes unsupported sentences instead
            case _:
                raise ValueError(f"request kind {request.kind!r}: the offline teacher does not know it")
        return Reply(text, "stop", self.model)


def ask_question(note: str, task: str, seed: int, cite: bool = False) -> str:
    """A question of this task on this note, or "" if it has a sure answer to none.

    The seed selects form and subject; `cite` prefers a question whose answer can be cited.
    """
    question = ask(forms_of(task), read_note(note), seed)
    if not cite or not question:
        return question
    others = (ask(forms_of(task), read_note(note), seed + k) for k in range(1, TRIES))
    return first_citable(note, itertools.chain([question], others), partial(answer_question, note, task, cite=True))


def ask_further(note: str, task: str, history: Sequence[tuple[str, str]], request: Request) -> str:
    """A question of this task that was not asked before, if possible about something in the last answer."""
    asked = {question for question, _ in history}
    last_answer = content_words(history[-1][1])
    drawn = [ask_question(note, task, request.seed + k) for k in range(DRAWS)]
    new = [question for question in drawn if question not in asked] or drawn
    nearest_first = sorted(new, key=lambda question: -len(content_words(question) & last_answer))
    if "cite" in request.inputs:
        return first_citable(note, nearest_first, partial(answer_question, note, task, cite=True))
    return nearest_first[0]


def content_words(text: str) -> set[str]:
    return set(CONTENT_WORD.findall(text.lower())) - QUESTION_WORDS


def answer_question(note: str, task: str, question: str, cite: bool = False) -> str:
    """The answer in the note's own words, or NOT_STATED. Questions of no known form get the most similar sentence.

    `cite` prefers an answer whose sentences can cite those of the note.
    """
    view = read_note(note)
    found = find_form(forms_of(task), question)
    if found:
        form, slot = found
        return form.answered(view, slot, cite)
    return nearest(view, question)


def forms_of(task: str) -> tuple[Form, ...]:
    if task not in FORMS:
        raise ValueError(f"task {task!r}: choose one of {', '.join(TASKS)}")
    return FORMS[task]


def nearest(view: NoteView, question: str) -> str:
    """The sentence with the most content words of a question: at least two, and half of them; otherwise NOT_STATED."""
    wanted = content_words(question)
    shared = [(len(wanted & set(CONTENT_WORD.findall(s.text.lower()))), -s.index, s.text) for s in view.sentences]
    count, _, text = max(shared, default=(0, 0, ""))
    return sentence_case(text) if count >= 2 and count * 2 >= len(wanted) else NOT_STATED
