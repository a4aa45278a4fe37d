"""Every prompt, once. Training, inference and the exported chat template share TRAINING_TEMPLATE.

The generation prompts, which teach a chat model to write notes, questions and answers, follow it: each is a
`Prompt` whose hash is kept with every text that it made.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.note_types import NoteType
from data_prep.records import TASKS, UserError, text_hash

# What turns a note and an instruction into model input. It ends in a newline, so that prompt and answer
# tokenize apart exactly as they do together.
TRAINING_TEMPLATE = """\
A clinician asks for help with a clinical note. The answer uses the note alone and says so where the note is silent.

### Note
{note}

### Instruction
{instruction}

### Answer
"""


def load_template(path: str | None) -> str:
    """The training template from a file, or the one above. It holds {note} and {instruction} once each and ends
    in a newline."""
    if not path:
        return TRAINING_TEMPLATE
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--prompt-template {path}: no such file")
    template = file.read_text(encoding="utf-8")
    for field in ("{note}", "{instruction}"):
        if template.count(field) != 1:
            raise UserError(f"--prompt-template {path} holds {field} {template.count(field)} times: it must stand once")
    if not template.endswith("\n"):
        raise UserError(
            f"--prompt-template {path} must end in a newline: only then are the answer's first tokens the same in "
            "training and in inference, whatever the tokenizer"
        )
    return template


def split_template(template: str) -> tuple[tuple[str, str], ...]:
    """The template as (literal, field) pairs; the last field is empty. Text in a note is never read as a field."""
    first, second = sorted(("{note}", "{instruction}"), key=template.index)
    head, rest = template.split(first)
    middle, tail = rest.split(second)
    return (head, first.strip("{}")), (middle, second.strip("{}")), (tail, "")


def render_prompt(template: str, note: str, instruction: str) -> str:
    values = {"note": note.strip(), "instruction": instruction.strip(), "": ""}
    return "".join(literal + values[field] for literal, field in split_template(template))


def follow_up_parts(template: str) -> tuple[str, str] | None:
    """What stands before and after the instruction of a later turn: as in the first, from the end of the note on. None
    where the instruction comes before the note, so that no turn can follow."""
    (_, first), (middle, _), (tail, _) = split_template(template)
    return (middle, tail) if first == "note" else None


def render_follow_up(template: str, instruction: str) -> str:
    """What follows the end-of-text token of an answer and precedes that of the next one."""
    parts = follow_up_parts(template)
    if parts is None:
        raise UserError(
            "the prompt template has {instruction} before {note}, so that no second instruction can follow: put the "
            "note first, or make the instructions with --follow-ups 0"
        )
    return parts[0] + instruction.strip() + parts[1]


def chat_template(template: str, bos_token: str, eos_token: str, special_tokens: list[str]) -> str:
    """The same prompt as a Jinja chat template: the system message is the note, then instructions as user and answers
    as assistant take turns.

    A special token's literal text inside a message is broken up by a space, since the text that a chat template
    makes is read with control tokens switched on. `bos_token` is empty where the tokenizer adds none.
    """
    breaks = "".join(f" | replace({token!r}, {token[0] + ' ' + token[1:]!r})" for token in special_tokens)
    contents = {"note": "messages[0]", "instruction": "messages[1]"}
    body = "".join(
        jinja_literal(literal) + (f"{{{{ {contents[field]}['content'] | trim{breaks} }}}}" if field else "")
        for literal, field in split_template(template)
    )
    parts = follow_up_parts(template)
    most = "messages | length != 2" if parts is None else "messages | length < 2"
    told = "Send the note as system and the instruction as user"
    later = ""
    if parts is not None:
        told += ", then answers as assistant and further instructions as user in turn"
        content = f"{{{{ message['content'] | trim{breaks} }}}}"
        later = (
            "{%- for message in messages[2:] -%}"
            "{%- if message['role'] != ['assistant', 'user'][loop.index0 % 2] -%}"
            f"{{{{ raise_exception('{told}.') }}}}"
            "{%- elif message['role'] == 'assistant' -%}"
            + content
            + jinja_literal(eos_token)
            + "{%- else -%}"
            + jinja_literal(parts[0])
            + content
            + jinja_literal(parts[1])
            + "{%- endif -%}{%- endfor -%}"
        )
    return (
        f"{{%- if {most} or messages[0]['role'] != 'system' or messages[1]['role'] != 'user' -%}}"
        f"{{{{ raise_exception('{told}.') }}}}"
        "{%- endif -%}" + jinja_literal(bos_token) + body + later
    )


def jinja_literal(text: str) -> str:
    """A Jinja expression for a text, so that braces and trailing newlines in it survive."""
    return f"{{{{ {text!r} }}}}" if text else ""


# ---------------------------------------------------------------- generation


@dataclass(frozen=True)
class Prompt:
    """A system and a user message; {fields} in the user message are filled in."""

    system: str
    user: str

    @property
    def hash(self) -> str:
        return text_hash(self.system, self.user)

    def messages(self, **values: str) -> tuple[dict[str, str], ...]:
        """Both messages. One pass over the template, so that braces in a note or a report are never read as a field."""
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

# What each task asks for, in one sentence; it must cover records.TASKS, and a test holds it to that.
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


# A conversation goes on: the same colleague asks again, having read what was answered.
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
    """Of all that the request says beside the report."""
    return text_hash(NOTE_PROMPT.hash, repr(note_type))


def question_messages(note: str, task: str, examples: Sequence[str]) -> tuple[dict[str, str], ...]:
    """What asks for an instruction; `examples` are earlier instructions of the same task."""
    assert task in TASKS
    shown = "\n".join(f"- {example}" for example in examples)
    return QUESTION_PROMPT.messages(task=task, rule=TASK_RULES[task], examples=shown, note=note.strip())


def answer_messages(note: str, question: str) -> tuple[dict[str, str], ...]:
    """What asks for the answer: note and instruction only, so that nothing else can leak into it."""
    return ANSWER_PROMPT.messages(note=note.strip(), question=question.strip())


def follow_up_messages(note: str, task: str, history: Sequence[tuple[str, str]]) -> tuple[dict[str, str], ...]:
    """What asks for the next instruction, after these (instruction, answer) pairs."""
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
    """What asks to mend a note or an answer; `unsupported` has one line for each thing that is wrong."""
    listed = "\n".join(f"- {line}" for line in unsupported)
    return REPAIR_PROMPT.messages(kind=kind, text=text.strip(), source=source.strip(), unsupported=listed)
