"""The JSON files of a Hugging Face folder that say which tokens control a text, read as transformers reads them.

tokenizer_config.json     {"eos_token": "</s>", "added_tokens_decoder": {"2048": {"content": "<|im_end|>", ...}}}
special_tokens_map.json   {"eos_token": {"content": "</s>", ...}}      where the first has no added_tokens_decoder
added_tokens.json         {"<|im_end|>": 2048}                         as above
generation_config.json    {"eos_token_id": [2, 7, 9]}                  otherwise the same key of config.json
"""

import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError, first_line
from data_prep.contract.reading.strict_json import strict_object

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
KEPT = NAMES[:4]  # the names that a saved folder has
LISTS = ("additional_special_tokens", "extra_special_tokens")
LARGEST_ID = 2**24  # many times the largest vocabulary
# Added tokens that stand for something other than their own letters: <|im_end|>, <pad>, [INST], [@BOS@], <<SYS>>.
MARKUP = re.compile(r"<[^<>\s]+>|<<[^<>\s]+>>|\[[/@]?[A-Za-z_]+@?\]", re.DOTALL)
# Tags of web pages, which Gemma's vocabulary has as ordinary tokens. <s> is missing: elsewhere it begins a text.
HTML = re.compile(
    r"</?(a|b|blockquote|br|caption|code|dd|div|dl|dt|em|h[1-6]|hr|i|img|li|ol|p|pre|span|strong|sub|sup|table|tbody|td|"
    r"tfoot|th|thead|tr|u|ul)>"
)


@dataclasses.dataclass(frozen=True)
class TokenFiles:
    """The control tokens of a folder. Strings are the texts of tokens."""

    named: dict[str, str] = dataclasses.field(default_factory=dict)  # {"eos_token": "</s>", ...}
    listed: frozenset[str] = frozenset()  # special tokens without a name
    added: dict[str, int] = dataclasses.field(default_factory=dict)  # ids of tokens beside the vocabulary
    special: frozenset[str] = frozenset()  # those of `added` that are marked as special
    ends: tuple[int, ...] = ()  # ids at which generation stops
    ends_are_all: bool = False  # generation_config.json names them, so that there is no other
    add_bos: bool | None = None
    chat_template: str = ""

    def is_declared(self, content: str) -> bool:
        """Return whether the files say that an added token is special, so that decoding leaves it out."""
        return content in self.listed or content in self.special or content in self.named.values()

    def is_control(self, content: str) -> bool:
        """Return whether an added token controls a text, so that its letters in a note must not become its id."""
        return (
            self.is_declared(content)
            or (MARKUP.fullmatch(content) is not None and HTML.fullmatch(content) is None)
            # A template holds words and white space too, which are ordinary tokens of some vocabularies.
            or (content in self.chat_template and not content.replace(" ", "").isalnum() and not content.isspace())
        )


def read_token_files(folder: Path) -> TokenFiles:
    """Raises UserError if a file is not JSON or names a token in a way that no version of transformers writes."""
    path = folder / "tokenizer_config.json"
    config = read_object(path)
    # As in transformers: with added_tokens_decoder in the first file the others do not count, without it they do.
    older = "added_tokens_decoder" not in config
    names = {**config, **(read_object(folder / "special_tokens_map.json") if older else {})}
    named = {name: text_of(names[name], f"{folder}: {name}") for name in NAMES if names.get(name)}
    listed = {text_of(token, f"{folder}: a special token") for key in LISTS for token in tokens_of(names.get(key))}
    ends, ends_are_all = read_ends(folder)
    added, special = read_added(folder, config)
    return TokenFiles(
        named,
        frozenset(listed),
        added,
        frozenset(special),
        ends,
        ends_are_all,
        config["add_bos_token"] if isinstance(config.get("add_bos_token"), bool) else None,
        read_chat_template(folder, config),
    )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if there is no such file. Raises UserError if it is something else."""
    return parse_object(path.read_bytes(), f"{path} is not JSON") if path.is_file() else {}


def parse_object(content: bytes, refusal: str) -> dict[str, Any]:
    """A JSON object, read strictly. Raises UserError, whose message begins with `refusal`."""
    try:
        raw = strict_object(content)
        if b"\\ud" in content.lower():  # half of a pair is no character, and cannot be written again
            json.dumps(raw, ensure_ascii=False).encode()
    except ValueError as error:
        raise UserError(f"{refusal}: {first_line(error)}") from error
    return raw


def tokens_of(value: Any) -> list[Any]:
    """The tokens of a list, or of an object {name: token} as transformers 5 has it."""
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def text_of(token: Any, where: str) -> str:
    """The text of a token, which is a string or an object with `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str) or not content:
        raise UserError(f"{where} is {token!r:.60}, which is not the text of a token: save the tokenizer again")
    return content


def read_added(folder: Path, config: dict[str, Any]) -> tuple[dict[str, int], set[str]]:
    """Ids of the tokens beside the vocabulary by their texts, and the texts of those marked as special."""
    entries: list[tuple[Any, str, bool]]
    if "added_tokens_decoder" in config:
        decoder, where = config["added_tokens_decoder"], f"{folder}/tokenizer_config.json: an added token"
        if not isinstance(decoder, dict):
            raise UserError(f"{folder}/tokenizer_config.json: added_tokens_decoder is not a JSON object")
        entries = [
            (int(number) if number.isdecimal() and len(number) < 12 else number, text_of(token, where),
             isinstance(token, dict) and token.get("special") is True)
            for number, token in decoder.items()
        ]  # fmt: skip
    else:
        entries = [(number, content, False) for content, number in read_object(folder / "added_tokens.json").items()]
    added: dict[str, int] = {}
    for number, content, _ in entries:
        if type(number) is not int or not 0 <= number < LARGEST_ID or content in added:
            raise UserError(f"{folder}: the added token {content!r:.60} has the id {number!r:.60}: it must be one id")
        added[content] = number
    return added, {content for _, content, is_special in entries if is_special}


def read_ends(folder: Path) -> tuple[tuple[int, ...], bool]:
    """The ids at which generation stops, and whether generation_config.json names them. Raises UserError."""
    for name in ("generation_config.json", "config.json"):
        value = read_object(folder / name).get("eos_token_id")
        if value is None or value == []:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(number) is int and 0 <= number < LARGEST_ID for number in ids):
            raise UserError(f"{folder / name}: eos_token_id is {value!r:.60}, which is not an id or a list of ids")
        return tuple(dict.fromkeys(ids)), name == "generation_config.json"
    return (), False


def read_chat_template(folder: Path, config: dict[str, Any]) -> str:
    """The chat template that transformers takes: the file before the key, and of several the default; "" for none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except ValueError as error:
            raise UserError(f"{path} is not UTF-8: {first_line(error)}") from error
    template = config.get("chat_template")
    for entry in template if isinstance(template, list) else []:
        if isinstance(entry, dict) and entry.get("name") == "default":
            template = entry.get("template")
    return template if isinstance(template, str) else ""


# ---------------------------------------------------------------- tokenizer.json


@dataclasses.dataclass(frozen=True)
class TokenizerJson:
    """The text of a tokenizer.json that gives each text the same ids every time."""

    text: str  # with the tokens marked as special that the folder declares as such
    marked: str  # with all tokens marked that control a text
    undeclared: frozenset[str]  # the tokens that differ


def read_tokenizer_json(path: Path, files: TokenFiles) -> TokenizerJson:
    """Read a tokenizer.json, without dropout of merges, truncation and padding, which are for training and for batches.

    `tokenizers` finds every added token in a text but those marked as special, and leaves only these out when decoding.
    Files that need no change are returned as they are.
    """
    content = path.read_bytes()
    raw = parse_object(content, f"{path} is not a tokenizer")
    added = raw.get("added_tokens")
    if not isinstance(added, list) or not all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in added):
        raise UserError(f"{path} is not a tokenizer: added_tokens is not a list of tokens; save the tokenizer again")
    check_ids(raw, added, path)
    changed = False
    for holder, key in ((raw, "truncation"), (raw, "padding"), (raw.get("model"), "dropout")):
        if isinstance(holder, dict) and holder.get(key) is not None:
            holder[key], changed = None, True
    for token in unmarked(added):
        if token.get("id") in files.ends or files.is_declared(token["content"]):
            token["special"], changed = True, True
    text = json.dumps(raw, ensure_ascii=False) if changed else content.decode()
    undeclared = [token for token in unmarked(added) if files.is_control(token["content"])]
    for token in undeclared:
        token["special"] = True
    marked = json.dumps(raw, ensure_ascii=False) if undeclared else text
    return TokenizerJson(text, marked, frozenset(token["content"] for token in undeclared))


def unmarked(added: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [token for token in added if token.get("special") is not True]


def check_ids(raw: dict[str, Any], added: list[dict[str, Any]], path: Path) -> None:
    """Raise UserError for ids that no vocabulary has: a vector of that many pieces would end the process."""
    model = raw.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = [*(vocabulary.values() if isinstance(vocabulary, dict) else ()), *(token.get("id") for token in added)]
    wrong = next((number for number in ids if type(number) is not int or not 0 <= number < LARGEST_ID), None)
    if wrong is not None or None in ids:
        raise UserError(f"{path}: {wrong!r:.60} is not the id of a token: save the tokenizer again")
    if isinstance(vocabulary, dict) and len(set(vocabulary.values())) < len(vocabulary):
        raise UserError(f"{path}: two pieces of its vocabulary have the same id: save the tokenizer again")


@contextlib.contextmanager
def without_stack_traces() -> Iterator[None]:
    """Hide what native code prints: a panic in Rust writes its stack to file descriptor 2 before it can be caught."""
    if sys.stderr is None:  # closed by the shell
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
