"""The generation prompts, which instruct a chat model to write notes, questions and answers.

The hash of each `Prompt` is stored with every text that it generated. The training prompt is in
`contract/training_prompt.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.contract.records import TASKS, text_hash
from data_prep.synthesize.note_types import NoteType

# ---------------------------------------------------------------- generation


@dataclass(frozen=True)
class Prompt:
    """A system and a user message; `messages` fills in the {fields} of the user message."""

    system: str
    user: str

    @property
    def hash(self) -> str:
        return text_hash(self.system, self.user)

    def messages(self, **values: str) -> tuple[dict[str, str], ...]:
        """Both messages, filled in one pass, so that braces in a note or a report are never read as a field."""
        user = re.sub(r"\{(\w+)\}", lambda match: values[match.group(1)], self.user)
        return {"role": "system", "content": self.system}, {"role": "user", "content": user}


NOTE_PROMPT = Prompt(
    system="You work in a hospital and write notes into the electronic health record.",
    user="""\
Below is a published case report. Write the {note_type} that the treating team would have filed for this patient.

How to write it:
1. Output the note and nothing else: no introduction, no closing remark, no comment on the task.
2. Everything in the note stands in the report. Keep numbers, units, doses, dates, sides and negations exactly as they \
are. Where the report gives no name, date, result or drug, leave it out; do not fill gaps and do not guess.
3. It uses, of the report, {scope}.
4. Use short headings in the order a chart has them, each only where the report has something for it. For instance: \
{headings}.
5. Its style: {style}.
6. Leave out what belongs to a journal and not to a chart: references, figures and tables, reviews of the literature, \
lessons learned, remarks on consent or on publication.

Case report:
{report}

The {note_type}:""",
)

# One sentence per task on what its instructions ask for; a test checks that it covers records.TASKS.
TASK_RULES = {
    "Named Entity Recognition": "ask to find and list mentions of one or more kinds (problems, drugs, tests, "
    "procedures, anatomy, findings and the like)",
    "Abbreviation Expansion": "ask for the long forms of abbreviations or acronyms that are used in the note",
    "Relation Extraction": "ask how things in the note are connected, such as a drug with its indication, a test with "
    "its result, or a finding with its cause",
    "Temporal Information Extraction": "ask when things happened, how long they lasted, or in which order",
    "Coreference Resolution": "ask what a word or phrase in the note, such as a pronoun or 'the lesion', stands for",
    "Paraphrasing": "ask to say a part of the note in other words, for a named reader or purpose, without a change of "
    "meaning",
    "Summarization": "ask for a shorter version of the note or of one of its parts, with a named focus or length",
    "Question Answering": "ask one specific question that a clinician would want this note to answer",
}

QUESTION_PROMPT = Prompt(
    system="You design exercises that test how well a clinical language model reads a patient's note.",
    user="""\
Write one instruction of the type "{task}" about the note below: {rule}.

How to write it:
1. Output the instruction alone, in one or two sentences, without its answer and without quotation marks.
2. The note by itself is enough to carry it out; outside knowledge is at most needed to understand its language.
3. It is about this patient: name what you ask about, so that it would not fit just any note.
4. Say it as a busy colleague would, and differently from the examples, which belong to other notes.

Examples of this type:
{examples}

Note:
{note}

Instruction:""",
)

ANSWER_RULES = """\
How to answer:
1. Output the answer alone. Be brief, and complete as far as the note goes.
2. Keep numbers, units, doses, dates, sides and negations as the note has them. Add no advice, no explanation from \
textbooks and no conclusion that the note does not draw.
3. For each thing asked for that the note does not give, say that it is not stated in the note.
4. Do not ask anything in return.

Note:
{note}
"""

ANSWER_PROMPT = Prompt(
    system="You are a careful clinical assistant. You read one note and do what a clinician asks.",
    user="Carry out the instruction, using nothing but the note.\n\n"
    + ANSWER_RULES
    + "\nInstruction:\n{question}\n\nAnswer:",
)

REPAIR_PROMPT = Prompt(
    system="You correct clinical texts against the record that they were written from.",
    user="""\
The {kind} below was written from the source below it alone. Some of its statements do not stand there. Write the \
{kind} again without them.

How to correct it:
1. Output the whole corrected {kind} and nothing else.
2. Change what is listed, and what it was said for; keep every other sentence, its order and its headings word for word.
3. Where the source says it otherwise, say it as the source does: number, unit, dose, date, side, negation, drug.
Where \
the source does not say it at all, leave it out.
4. Add nothing.

Not in the source:
{unsupported}

The {kind}:
{text}

Source:
{source}

Corrected {kind}:""",
)


# The next instruction of the same colleague, after reading the answers so far.
FOLLOW_UP_PROMPT = Prompt(
    system=QUESTION_PROMPT.system,
    user="""\
A colleague asks about the note below, and has had the answers that stand under it. Write what the colleague asks \
next, an instruction of the type "{task}": {rule}.

How to write it:
1. Output the instruction alone, in one or two sentences, without its answer and without quotation marks.
2. The note by itself is enough to carry it out.
3. It follows from the conversation: it goes deeper into an answer, or turns to what the answers leave open. It may \
refer to them ("that drug", "before then"), and asks for nothing that was answered already.

Note:
{note}

Conversation:
{history}

Next instruction:""",
)

FOLLOW_UP_ANSWER_PROMPT = Prompt(
    system=ANSWER_PROMPT.system,
    user="Carry out the last instruction of a conversation about a note, using nothing but the note. What was said "
    "before tells you what the instruction refers to; it is no source of facts.\n\n"
    + ANSWER_RULES
    + "\nConversation:\n{history}\n\nLast instruction:\n{question}\n\nAnswer:",
)


def note_messages(report: str, note_type: NoteType) -> tuple[dict[str, str], ...]:
    return NOTE_PROMPT.messages(
        report=report.strip(),
        note_type=note_type.name,
        headings=note_type.headings,
        scope=note_type.scope,
        style=note_type.style,
    )


def note_prompt_hash(note_type: NoteType) -> str:
    """A hash of everything in the request except the report."""
    return text_hash(NOTE_PROMPT.hash, repr(note_type))


def question_messages(note: str, task: str, examples: Sequence[str]) -> tuple[dict[str, str], ...]:
    """The request for an instruction; `examples` are other instructions of the same task."""
    assert task in TASKS
    shown = "\n".join(f"- {example}" for example in examples)
    return QUESTION_PROMPT.messages(task=task, rule=TASK_RULES[task], examples=shown, note=note.strip())


def answer_messages(note: str, question: str) -> tuple[dict[str, str], ...]:
    """The request for the answer, with only note and instruction, so that nothing else can leak into it."""
    return ANSWER_PROMPT.messages(note=note.strip(), question=question.strip())


def follow_up_messages(note: str, task: str, history: Sequence[tuple[str, str]]) -> tuple[dict[str, str], ...]:
    """The request for the next instruction after a history of (instruction, answer) pairs."""
    assert task in TASKS
    return FOLLOW_UP_PROMPT.messages(
        task=task, rule=TASK_RULES[task], note=note.strip(), history=render_history(history)
    )


def follow_up_answer_messages(
    note: str, history: Sequence[tuple[str, str]], question: str
) -> tuple[dict[str, str], ...]:
    return FOLLOW_UP_ANSWER_PROMPT.messages(
        note=note.strip(), history=render_history(history), question=question.strip()
    )


def render_history(history: Sequence[tuple[str, str]]) -> str:
    return "\n\n".join(f"Instruction: {question}\nAnswer: {answer}" for question, answer in history)


def repair_messages(kind: str, text: str, source: str, unsupported: Sequence[str]) -> tuple[dict[str, str], ...]:
    """The request to repair a note or an answer; `unsupported` has one line per unsupported atom."""
    listed = "\n".join(f"- {line}" for line in unsupported)
    return REPAIR_PROMPT.messages(kind=kind, text=text.strip(), source=source.strip(), unsupported=listed)
