"""The prompt that training, inference and the exported chat template share.

A template with the field {numbered_note} in place of {note} shows the note with the numbers of its sentences, for
models whose answers cite them.
"""

import re
from pathlib import Path

from data_prep.contract.errors import UserError
from data_prep.contract.prompt.cited_sentences import NUMBERING_MACRO, number_note

NUMBERED_TOKEN = re.compile(r"([^0-9]+)(0|[1-9][0-9]*)([^0-9]*)")

# Turns a note and an instruction into model input. It ends in a newline, so that prompt and answer give the same tokens
# whether they are encoded separately or together.
TRAINING_TEMPLATE = """\
A clinician asks for help with a clinical note. The answer uses the note alone and says so where the note is silent.

### Note
{note}

### Instruction
{instruction}

### Answer
"""

CITED_TEMPLATE = """\
A clinician asks for help with a clinical note, whose sentences are numbered. The answer uses the note alone and says \
so where the note is silent. Each sentence of it ends in the numbers of the sentences that support it, as in [4, 7].

### Note
{numbered_note}

### Instruction
{instruction}

### Answer
"""
NOTE_FIELDS = ("{note}", "{numbered_note}")


def load_template(path: str | None, cites: bool = False) -> str:
    """The training template from a file, or the default if `path` is None or empty: with numbers if answers cite.

    Raises UserError unless the file contains {note} or {numbered_note}, and {instruction}, once each and ends in a
    newline.
    """
    if not path:
        return CITED_TEMPLATE if cites else TRAINING_TEMPLATE
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--prompt-template {path}: no such file")
    template = file.read_text(encoding="utf-8")
    field = note_field(template)
    if all(name in template for name in NOTE_FIELDS):
        raise UserError(f"--prompt-template {path} contains {{note}} and {{numbered_note}}: only one of them may occur")
    for name in (field, "{instruction}"):
        if template.count(name) != 1:
            raise UserError(
                f"--prompt-template {path} contains {name} {template.count(name)} times: it must occur once"
            )
    if not template.endswith("\n"):
        raise UserError(
            f"--prompt-template {path} must end in a newline: otherwise the first tokens of the answer may differ "
            "between training and inference"
        )
    return template


def note_field(template: str) -> str:
    """The field of the note in a template: {numbered_note} if it has that, otherwise {note}."""
    return "{numbered_note}" if "{numbered_note}" in template else "{note}"


def shows_numbers(template: str) -> bool:
    """Return True if prompts of this template show the numbers of the note's sentences."""
    return note_field(template) == "{numbered_note}"


def split_template(template: str) -> tuple[tuple[str, str], ...]:
    """The template as (literal, field) pairs, where the last field is empty.

    Splitting before substitution ensures that "{instruction}" in a note is never read as a field.
    """
    first, second = sorted((note_field(template), "{instruction}"), key=template.index)
    head, rest = template.split(first)
    middle, tail = rest.split(second)
    return (head, first.strip("{}")), (middle, second.strip("{}")), (tail, "")


def render_prompt(template: str, note: str, instruction: str) -> str:
    shown = number_note(note) if shows_numbers(template) else note.strip()
    values = {"note": shown, "numbered_note": shown, "instruction": instruction.strip(), "": ""}
    return "".join(literal + values[field] for literal, field in split_template(template))


def follow_up_parts(template: str) -> tuple[str, str] | None:
    """The text before and after the instruction of a later turn, as in the first turn from the end of the note on.

    None if the instruction precedes the note, so that no turn can follow.
    """
    (_, first), (middle, _), (tail, _) = split_template(template)
    return (middle, tail) if first != "instruction" else None


def render_follow_up(template: str, instruction: str) -> str:
    """The text between the end-of-text token of an answer and the next answer; UserError if no turn can follow."""
    parts = follow_up_parts(template)
    if parts is None:
        raise UserError(
            "the prompt template has {instruction} before {note}, so no second instruction can follow: put the note "
            "first, or generate the instructions with --follow-ups 0"
        )
    return parts[0] + instruction.strip() + parts[1]


def chat_template(template: str, bos_token: str, eos_token: str, special_tokens: list[str]) -> str:
    """The same prompt as a Jinja chat template: the system message is the note, then user messages (instructions) and
    assistant messages (answers) alternate.

    The literal text of a special token inside a message is broken up by a space, because the output of a chat template
    is tokenized with control tokens enabled. `bos_token` is empty if the tokenizer adds none.
    """
    # Numbered before special tokens are broken up, so that sentences have the numbers of training.
    numbered = "{'content': numbered(messages[0]['content'] | trim)}"
    messages = {"note": "messages[0]", "numbered_note": numbered, "instruction": "messages[1]"}
    body = "".join(
        jinja_literal(literal) + (f"{{{{ text_of({messages[field]}) }}}}" if field else "")
        for literal, field in split_template(template)
    )
    parts = follow_up_parts(template)
    wrong_length = "messages | length != 2" if parts is None else "messages | length < 2"
    usage = "Send the note as system and the instruction as user"
    later = ""
    if parts is not None:
        usage += ", then answers as assistant and further instructions as user in turn"
        content = "{{ text_of(message) }}"
        later = (
            "{%- for message in messages[2:] -%}"
            "{%- if message['role'] != ['assistant', 'user'][loop.index0 % 2] -%}"
            f"{{{{ raise_exception('{usage}.') }}}}"
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
        f"{{%- if {wrong_length} or messages[0]['role'] != 'system' or messages[1]['role'] != 'user' -%}}"
        f"{{{{ raise_exception('{usage}.') }}}}"
        "{%- endif -%}"
        + (NUMBERING_MACRO if shows_numbers(template) else "")
        + text_macro(special_tokens)
        + jinja_literal(bos_token)
        + body
        + later
    )


def text_macro(special_tokens: list[str]) -> str:
    """A Jinja macro that yields the content of a message without special tokens.

    The tokens are in loops: Gemma has thousands, and a chain of that many filters exceeds the nesting that Python
    allows. Numbered tokens such as <unused0> to <unused98> are one loop over their numbers.
    """
    single, runs = numbered_runs(special_tokens)
    replace = "{%- set text.broken = text.broken | replace(token, token[0] ~ ' ' ~ token[1:]) -%}{%- endfor -%}"
    loops = [f"{{%- for token in {single!r} -%}}{replace}"] if single else []
    loops += [
        f"{{%- if {before!r} in text.broken -%}}{{%- for number in range({count}) -%}}"
        f"{{%- set token = {before!r} ~ number ~ {after!r} -%}}{replace}{{%- endif -%}}"
        for before, after, count in runs
    ]
    return (
        "{%- macro text_of(message) -%}{%- set text = namespace(broken=message['content'] | trim) -%}"
        f"{''.join(loops)}{{{{ text.broken }}}}{{%- endmacro -%}}"
    )


def numbered_runs(tokens: list[str]) -> tuple[list[str], list[tuple[str, str, int]]]:
    """The tokens that are not numbered, and runs of those that are, from 0 on: (text before, text after, count).

    The longest come first, because a token may contain another. A token that can overlap with itself, as in |a|a|, is
    listed twice: the first replacement leaves every other occurrence.
    """
    numbers: dict[tuple[str, str], set[int]] = {}
    for token in tokens:
        if found := NUMBERED_TOKEN.fullmatch(token):
            numbers.setdefault((found[1], found[3]), set()).add(int(found[2]))
    runs = {ends: found for ends, found in numbers.items() if found == set(range(len(found))) and len(found) > 9}
    in_runs = {f"{before}{number}{after}" for (before, after), found in runs.items() for number in found}
    single = sorted(set(tokens) - in_runs, key=lambda token: (-len(token), token))
    overlapping = {token for token in single if any(token.endswith(token[:end]) for end in range(1, len(token)))}
    listed = [token for token in single for _ in range(2 if token in overlapping else 1)]
    return listed, [(before, after, len(found)) for (before, after), found in sorted(runs.items())]


def jinja_literal(text: str) -> str:
    """A Jinja expression that yields the text, so that its braces and trailing newlines survive."""
    return f"{{{{ {text!r} }}}}" if text else ""
