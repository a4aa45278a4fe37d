"""Removal of what chat models put around the text that they were asked for.

    <think>The user wants a note.</think>      Here is the discharge summary:      Let me know if you need changes.

Only text that is certainly not part of the answer is removed: reasoning, code fences, announcements, labels, offers,
control tokens and invented further turns. A reply whose reasoning never ends contains no answer.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Unwrapped:
    """A reply without its wrapping. `text` is None if the reply ends within its reasoning."""

    text: str | None
    removed: tuple[str, ...] = ()  # kinds of wrapping, in the order of their removal


_THOUGHTS = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|plan(?:ning)?|seed:think)"
# Opening and closing tags of reasoning: <think>, [THINK], ◁think▷, and the reasoning channel of gpt-oss.
OPENS = re.compile(
    rf"<{_THOUGHTS}(?:\s[^<>]*)?>|\[{_THOUGHTS}\]|◁{_THOUGHTS}▷|<\|(?:begin_of_thought|START_THINKING)\|>"
    r"|(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)[^<]*<\|message\|>",
    re.IGNORECASE,
)
CLOSES = re.compile(
    rf"</{_THOUGHTS}>|\[/{_THOUGHTS}\]|◁/{_THOUGHTS}▷|<\|(?:end_of_thought|END_THINKING)\|>"
    r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final[^<]*<\|message\|>",
    re.IGNORECASE,
)

_ROLE = r"(?:user|human|assistant|system|model|bot|ipython|tool)"
# Header of a turn, in the formats of common chat templates.
HEADER = re.compile(
    rf"<\|im_start\|>\s*{_ROLE}?[ \t]*\n?|<\|start_header_id\|>\s*{_ROLE}\s*<\|end_header_id\|>\s*"
    rf"|<start_of_turn>\s*{_ROLE}?[ \t]*\n?|<\|start\|>{_ROLE}(?:<\|message\|>)?|<\|{_ROLE}(?:_token)?\|>\s*"
    r"|<\|START_OF_TURN_TOKEN\|>(?:<\|[A-Z]+_TOKEN\|>)?"
    r"|\[/?INST\]\s*|<<SYS>>|<｜(?:User|Assistant)｜>|<\|begin_of_text\|>|<bos>|<s>\s*",
    re.IGNORECASE,
)
# Token that ends a turn or a text.
END = re.compile(
    r"<\|(?:eot_id|eom_id|im_end|endoftext|end_of_text|end|return|eos|END_OF_TURN_TOKEN|end_of_turn)\|>|</s>|<eos>"
    r"|<end_of_turn>|<\|?/?eot\|?>|<｜end▁of▁sentence｜>|\[EOS\]",
    re.IGNORECASE,
)
# A further turn, as plain text.
NEXT_TURN = re.compile(
    r"\n\s*(?:#{2,4}\s*(?:instruction|response|input|human|user|assistant)s?\s*:?"
    r"|(?:\*\*)?(?:user|human|assistant)\s*:(?:\*\*)?)"
    r"(?=\s)",
    re.IGNORECASE,
)

# A fenced block at the beginning. A comment after it is not part of the answer; one that is never closed loses its
# first line.
FENCE = re.compile(
    r"\A(?P<fence>`{3,}|~{3,})[ \t]*[\w+.-]*[ \t]*\n(?P<inside>.*?)(?:\n[ \t]*(?P=fence)[ \t]*(?:\n.*)?\Z|\Z)",
    re.DOTALL,
)
TAGGED = re.compile(
    r"\A<(?P<tag>answer|output|response|result|final|final_answer|note|text|document|instruction|question)>\s*"
    r"(?P<inside>.*?)\s*</(?P=tag)>\Z",
    re.IGNORECASE | re.DOTALL,
)

# What the reply is, in an announcement or a label. "Discharge summary:" alone may be the note's own heading.
_THING = (
    r"(?:(?:corrected|revised|rewritten|requested|final|complete|completed|full|clinical|synthetic|generated|short|brief|"
    r"concise|possible|medical|next|follow-?up)\s+)*"
    r"(?:note|summary|discharge summary|history and physical|progress note|report|letter|answer|response|reply|"
    r"instruction|question|output|result|text|version|list|paraphrase|document|json)"
)
_AGREED = (
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok|yes|great|understood|alright|got it|no problem|gladly)"
    r"[\w ]{0,20}[,.!:–—-]+\s*)"
)
_PRESENTED = (
    r"(?:here(?:'s|’s| is| are)|below (?:is|are)|(?:the )?following (?:is|are)|(?:please )?find (?:below|attached)"
    r"|I(?:'ve|’ve| have)? (?:written|prepared|created|drafted|rewritten|corrected|generated|revised|wrote))"
)
# One line that presents the answer. It ends in a colon, or is a paragraph of its own.
ANNOUNCED = re.compile(
    rf"\A{_AGREED}?(?:\*\*)?(?:{_PRESENTED}\b[^\n:]{{0,160}}?\b{_THING}\b[^\n:]{{0,120}}?"
    r"(?::(?:\*\*)?[ \t]*\n*|[.!]?[ \t]*\n[ \t]*\n+)"
    r"|here you (?:go|are)\s*[:.!]?[ \t]*\n+)",
    re.IGNORECASE,
)
# An agreement as a paragraph of its own.
AGREED = re.compile(
    rf"\A{_AGREED}(?:(?:I(?:'d|’d| would) be|I(?:'ll|’ll| will|'m|’m| am)|happy|glad|let me)\b[^\n]{{0,120}})?"
    r"[ \t]*\n+",
    re.IGNORECASE,
)
LABELLED = re.compile(
    rf"\A(?:#{{1,6}}\s*)?(?:\*\*|__)(?:the )?{_THING}\s*:?\s*(?:\*\*|__)\s*:?[ \t]*(?=\S|\n)(?:\n+)?"
    r"|\A(?:(?:the )?(?:final |corrected |next )?(?:answer|instruction|question|response|output|result|json))\s*:\s*"
    r"|\A(?:the )?(?:corrected )?(?:note|text)\s*:[ \t]*\n+",
    re.IGNORECASE,
)
_CHANGE = (
    r"(?:chang|edit|revis|adjust|modif|addition|correction|clarif|detail|help|assist|question|format|version|anything)"
)
# An offer to the user, as a last paragraph. "Call us with questions" in a letter is no offer of a model.
OFFER = re.compile(
    r"(?:\A|\n\s*\n|(?<=[.!?])\s+|\n)(?:[*_]{0,2}(?:-{3,}\s*)?)"
    r"(?:(?:please )?let me know (?:if|whether|how|what)\b[^\n]{0,200}"
    r"|(?:I )?hope (?:this|that|it)\b[^\n]{0,120}"
    rf"|(?:please )?feel free to (?:ask|let me know|reach out|request)\b[^\n]{{0,160}}"
    rf"|(?:would you like|do you (?:want|need)|shall I|should I|can I)\b[^\n]{{0,60}}\b(?:me|I|{_CHANGE}\w*)\b"
    r"[^\n]{0,160}\?"
    r"|is there anything else (?:you|I can|that I|I could|that you)\b[^\n]{0,120}\?"
    rf"|if you(?:'d| would)? (?:need|want|like|have|prefer)\b[^\n]{{0,80}}\b{_CHANGE}\w*[^\n]{{0,120}}"
    r"\b(?:let me know|just ask|I can|I(?:'d| would) be)\b[^\n]{0,120}"
    r"|I(?:'m| am) (?:here|happy|available) to (?:help|assist)\b[^\n]{0,120})"
    r"[*_]{0,2}\s*\Z",
    re.IGNORECASE,
)
RULE = re.compile(r"\A\s*(?:-{3,}|\*{3,}|_{3,})[ \t]*\n|\n[ \t]*(?:-{3,}|\*{3,}|_{3,})\s*\Z")


def unwrap(text: str) -> Unwrapped:
    """The text of a chat model's reply without its wrapping."""
    removed: list[str] = []
    rest, thought = without_reasoning(text)
    if thought:
        removed.append("reasoning")
    if rest is None:
        return Unwrapped(None, tuple(removed))
    text = rest.strip()
    while True:
        for kind, remove in STEPS:
            shorter = remove(text).strip()
            # A reply that is nothing but wrapping is left for the filters, which say what it is.
            if shorter and shorter != text:
                text = shorter
                removed.append(kind)
                break
        else:
            return Unwrapped(text, tuple(dict.fromkeys(removed)))


def without_reasoning(text: str) -> tuple[str | None, bool]:
    """The text after the reasoning, and whether there was any; None if the reasoning never ends.

    A closing tag alone ends reasoning that began in the prompt. An opening tag that is not at the beginning and is
    never closed starts an afterthought.
    """
    closed = list(CLOSES.finditer(text))
    if closed:
        text = text[closed[-1].end() :]
    opened = OPENS.search(text)
    if opened is None:
        return text, bool(closed)
    before = text[: opened.start()]
    return (before if END.sub("", HEADER.sub("", before)).strip() else None), True


def without_turns(text: str) -> str:
    """The first turn: without headers at its beginning, and up to the token that ends it or the next header."""
    while match := HEADER.match(text):
        text = text[match.end() :].lstrip()
    text = (
        re.sub(rf"\A(?:\*\*)?{_ROLE}\s*:(?:\*\*)?\s+(?=\S)", "", text, flags=re.IGNORECASE) if _labelled(text) else text
    )
    ends = [match.start() for pattern in (END, HEADER, NEXT_TURN) if (match := pattern.search(text))]
    return text[: min(ends)] if ends else text


def _labelled(text: str) -> bool:
    return re.match(r"(?:\*\*)?(?:assistant|model|bot)\s*:", text, re.IGNORECASE) is not None


def without_fence(text: str) -> str:
    if (match := FENCE.match(text)) is None:
        return text
    return match["inside"]


def without_tag(text: str) -> str:
    return match["inside"] if (match := TAGGED.match(text)) else text


def without_quotes(text: str) -> str:
    """The text of one paragraph within quotation marks, which are a wrapping if they occur nowhere else in it."""
    for opening, closing in ('""', "“”", "«»"):
        if text.startswith(opening) and text.endswith(closing) and len(text) > 2 and "\n" not in text:
            inside = text[1:-1]
            if opening not in inside and closing not in inside:
                return inside
    return text


STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("turns", without_turns),
    ("fence", without_fence),
    ("tag", without_tag),
    ("announcement", lambda text: AGREED.sub("", ANNOUNCED.sub("", text, count=1), count=1)),
    ("label", lambda text: LABELLED.sub("", text, count=1)),
    ("offer", lambda text: OFFER.sub("", text, count=1)),
    ("rule", lambda text: RULE.sub("", text, count=1)),
    ("quotes", without_quotes),
)
