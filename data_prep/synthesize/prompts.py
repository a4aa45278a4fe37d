"""The generation prompts, which instruct a chat model to write notes, questions and answers.

The hash of each `Prompt` is stored with every text that it generated. The training prompt is in
`contract/prompt/training_prompt.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.contract.prompt.cited_sentences import number_note
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
    system="You are a clinician who writes notes in a hospital's electronic health record.",
    user="""\
Below is a published case report. Write the {note_type} that the treating team would have filed for this patient.

How to write it:
1. Output the note and nothing else: no introduction, no closing remark, no comment on the task.
2. State only facts that the report states. Copy numbers, units, doses, dates, sides and negations exactly. If the \
report gives no name, date, result or drug, leave it out. Do not fill gaps and do not guess.
3. Cover this part of the report: {scope}.
4. Use short headings in the usual order of a chart, and only headings for which the report has content. For example: \
{headings}.
5. Style: {style}.
6. Leave out journal content that does not belong in a chart: references, figures and tables, reviews of the \
literature, lessons learned, remarks on consent or on publication.

Case report:
{report}

The {note_type}:""",
)

# One sentence per task on what its instructions ask for; a test checks that it covers records.TASKS.
TASK_RULES = {
    "Named Entity Recognition": "ask to find and list all mentions of one or more categories (such as problems, drugs, "
    "tests, procedures, anatomy, findings)",
    "Abbreviation Expansion": "ask for the long forms of abbreviations or acronyms used in the note",
    "Relation Extraction": "ask how items in the note are related, such as a drug and its indication, a test and its "
    "result, or a finding and its cause",
    "Temporal Information Extraction": "ask when events happened, how long they lasted, or in which order",
    "Coreference Resolution": "ask what a word or phrase in the note, such as a pronoun or 'the lesion', refers to",
    "Paraphrasing": "ask to reword a part of the note for a named reader or purpose, without changing its meaning",
    "Summarization": "ask for a shorter version of the note or of one part, with a stated focus or length",
    "Question Answering": "ask one specific question that a clinician would want this note to answer",
}

QUESTION_PROMPT = Prompt(
    system="You design exercises that test how well a clinical language model reads a patient's note.",
    user="""\
Write one instruction of the type "{task}" about the note below: {rule}.

How to write it:
1. Output only the instruction, in one or two sentences, without an answer and without quotation marks.
2. The note alone must be enough to answer it. Outside knowledge may be needed to understand the language, not more.
3. Make it specific to this patient: name what you ask about, so that it would not fit any other note.
4. Write as a busy colleague would, and differently from the examples, which belong to other notes.

Examples of this type:
{examples}

Note:
{note}

Instruction:""",
)

ANSWER_RULES = """\
How to answer:
1. Output only the answer. Be brief, and include everything relevant that the note contains.
2. Copy numbers, units, doses, dates, sides and negations exactly from the note. Add no advice, no textbook \
explanations and no conclusions that the note does not draw.
3. If the note does not contain something that is asked for, say that it is not stated in the note.
4. Do not ask questions.

Note:
{note}
"""

ANSWER_PROMPT = Prompt(
    system="You are a careful clinical assistant. You read one note and carry out a clinician's instruction.",
    user="Carry out the instruction, using only the note.\n\n" + ANSWER_RULES + "\nInstruction:\n{question}\n\nAnswer:",
)

# For answers whose sentences cite the numbered sentences of the note.
CITING_RULES = """\
5. The sentences of the note are numbered. End each sentence of the answer, and each item of a list, in the numbers of \
the sentences that support it, before the final full stop: "Metformin was stopped for renal failure [4, 7]."
6. Cite as few sentences as support all of it, and none that it does not need. Answer in complete sentences: "Yes, the \
patient had a fever [3]." and not "Yes."
7. A sentence that says that something is not stated in the note cites nothing.
"""
CITED_RULES = ANSWER_RULES.replace("\nNote:\n", CITING_RULES + "\nNote:\n")
CITED_ANSWER_PROMPT = Prompt(
    system=ANSWER_PROMPT.system,
    user="Carry out the instruction, using only the note.\n\n" + CITED_RULES + "\nInstruction:\n{question}\n\nAnswer:",
)

REPAIR_PROMPT = Prompt(
    system="You correct clinical texts against the record that they were written from.",
    user="""\
The {kind} below should be based only on the source below it. Some of its statements are not supported by the \
source. Rewrite the {kind} without them.

How to correct it:
1. Output the complete corrected {kind} and nothing else.
2. Change only the listed statements and text that depends on them. Keep all other sentences, their order and the \
headings word for word.
3. If the source gives another number, unit, dose, date, side, negation or drug, use that of the source. If the source \
does not mention it at all, delete the statement.
4. Add nothing.

Not supported by the source:
{unsupported}

The {kind}:
{text}

Source:
{source}

Corrected {kind}:""",
)

CITED_REPAIR_PROMPT = Prompt(
    system=REPAIR_PROMPT.system,
    user="""\
The answer below should be based only on the note below it, and each of its sentences should cite the numbers of the \
note's sentences that support it. Some of its statements or citations are wrong.

How to correct it:
1. Output the complete corrected answer and nothing else.
2. Change only the listed sentences. Keep all others word for word, with their citations.
3. If the note gives another number, unit, dose, date, side, negation or drug, use that of the note. If the note does \
not mention it at all, delete the statement.
4. Each sentence and each item of a list ends in the numbers of the sentences that support it, as few as support all \
of it, before the final full stop: "Metformin was stopped for renal failure [4, 7]." A sentence that says that \
something is not stated in the note cites nothing.
5. Add nothing.

What is wrong:
{unsupported}

The answer:
{text}

Note:
{source}

Corrected answer:""",
)

# The next instruction of the same colleague, after reading the answers so far.
FOLLOW_UP_PROMPT = Prompt(
    system=QUESTION_PROMPT.system,
    user="""\
A colleague asks about the note below and has received the answers shown under it. Write the colleague's next \
instruction, of the type "{task}": {rule}.

How to write it:
1. Output only the instruction, in one or two sentences, without an answer and without quotation marks.
2. The note alone must be enough to answer it.
3. Continue the conversation: go deeper into an answer, or turn to what the answers leave open. You may refer to \
earlier turns ("that drug", "before then"). Do not ask again for what was already answered.

Note:
{note}

Conversation:
{history}

Next instruction:""",
)

FOLLOW_UP_ANSWER_PROMPT = Prompt(
    system=ANSWER_PROMPT.system,
    user="Carry out the last instruction of a conversation about a note, using only the note. Use the earlier turns to "
    "understand what the instruction refers to, not as a source of facts.\n\n"
    + ANSWER_RULES
    + "\nConversation:\n{history}\n\nLast instruction:\n{question}\n\nAnswer:",
)

CITED_FOLLOW_UP_ANSWER_PROMPT = Prompt(
    system=ANSWER_PROMPT.system,
    user=FOLLOW_UP_ANSWER_PROMPT.user.replace(ANSWER_RULES, CITED_RULES),
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


def answer_messages(note: str, question: str, cites: bool = False) -> tuple[dict[str, str], ...]:
    """The request for the answer, with only note and instruction, so that nothing else can leak into it."""
    prompt, shown = (CITED_ANSWER_PROMPT, number_note(note)) if cites else (ANSWER_PROMPT, note.strip())
    return prompt.messages(note=shown, question=question.strip())


def follow_up_messages(note: str, task: str, history: Sequence[tuple[str, str]]) -> tuple[dict[str, str], ...]:
    """The request for the next instruction after a history of (instruction, answer) pairs."""
    assert task in TASKS
    return FOLLOW_UP_PROMPT.messages(
        task=task, rule=TASK_RULES[task], note=note.strip(), history=render_history(history)
    )


def follow_up_answer_messages(
    note: str, history: Sequence[tuple[str, str]], question: str, cites: bool = False
) -> tuple[dict[str, str], ...]:
    prompt, shown = FOLLOW_UP_ANSWER_PROMPT, note.strip()
    if cites:
        prompt, shown = CITED_FOLLOW_UP_ANSWER_PROMPT, number_note(note)
    return prompt.messages(note=shown, history=render_history(history), question=question.strip())


def render_history(history: Sequence[tuple[str, str]]) -> str:
    return "\n\n".join(f"Instruction: {question}\nAnswer: {answer}" for question, answer in history)


def repair_messages(kind: str, text: str, source: str, unsupported: Sequence[str]) -> tuple[dict[str, str], ...]:
    """The request to repair a note or an answer; `unsupported` has one line per unsupported atom."""
    listed = "\n".join(f"- {line}" for line in unsupported)
    return REPAIR_PROMPT.messages(kind=kind, text=text.strip(), source=source.strip(), unsupported=listed)


def cited_repair_messages(text: str, note: str, wrong: Sequence[str]) -> tuple[dict[str, str], ...]:
    """The request to repair an answer that cites; `wrong` has one line per statement or citation."""
    listed = "\n".join(f"- {line}" for line in wrong)
    return CITED_REPAIR_PROMPT.messages(text=text.strip(), source=number_note(note), unsupported=listed)
