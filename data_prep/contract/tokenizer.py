"""Tokenizers, with exactly the ids that Hugging Face transformers produces.

SentencePiece models run in TensorFlow Text while packing. Every packed folder, run and export contains the same
vocabulary as a `tokenizer.json`, which `asclepius_jax` reads. Text is always text: a literal `</s>` in a note never
becomes a control token.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from data_prep.contract.errors import UserError, first_line
from data_prep.contract.sentencepiece_model import NORMAL, added_to, read_sentencepiece, to_fast
from data_prep.contract.tokenizer_files import (
    KEPT,
    TokenFiles,
    read_token_files,
    read_tokenizer_json,
    without_stack_traces,
)

# No vocabulary has this character. One without a piece for what is unknown fails on it, and would fail while packing.
UNKNOWN = "\U0010fffd"
OTHER_FORMS = ("tekken.json", "*.tiktoken", "vocab.json")  # of a vocabulary


class Tokenizer(Protocol):
    bos_id: int | None  # None if the tokenizer prepends nothing
    eos_id: int
    ends: tuple[int, ...]  # ids at which generation stops

    @property
    def vocab_size(self) -> int: ...

    @property
    def hash(self) -> str: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def fast_tokenizer(self) -> Any:
        """The equivalent tokenizer of the `tokenizers` library, which transformers runs."""

    def save(self, folder: Path, trained: bool = False) -> None:
        """Write the tokenizer to a folder. `trained`: for a model that learns from texts to end them in EOS, so that
        transformers must also read control tokens in a text as text."""


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a SentencePiece `.model` file, or a folder with `tokenizer.json` or `tokenizer.model`."""
    path = Path(path)
    if path.is_file() and path.suffix == ".model":
        return SentencePieceTokenizer(path)
    if (path / "tokenizer.json").is_file():
        return JsonTokenizer(path)
    if (path / "tokenizer.model").is_file():
        return SentencePieceTokenizer(path / "tokenizer.model", read_token_files(path))
    told = f"{path} is not a tokenizer: pass a SentencePiece .model file or a folder with tokenizer.json"
    if other := next((file.name for name in OTHER_FORMS for file in path.glob(name)), ""):
        told += f", not {other}: load the tokenizer with transformers and save it again"
    raise UserError(told)


def check_vocabulary(tokenizer: Tokenizer, rows: int, where: object) -> None:
    """Raise UserError if a text can have tokens without a row of the embedding; print the number of unused rows."""
    pieces = tokenizer.vocab_size
    if pieces > rows and (beyond := pieces_of_texts(tokenizer, rows)):
        raise UserError(
            f"{where}: the tokenizer has {pieces} pieces, the embedding {rows} rows: use the tokenizer of this model, "
            f"or add embedding rows for the new pieces, such as {beyond[0]!r:.60}"
        )
    if pieces > rows:
        print(f"{where}: {pieces - rows} control tokens without a row of the embedding are never used")
    if pieces < rows:
        print(
            f"{where}: the tokenizer has {pieces} pieces, the embedding {rows} rows; the {rows - pieces} padding rows "
            "are kept"
        )


def pieces_of_texts(tokenizer: Tokenizer, first: int) -> list[str]:
    """The pieces from an id on that documents can contain: all but control tokens that neither begin nor end a text.

    Gemma 3 has one token for images, which the embedding of its models for text alone lacks.
    """
    fast = tokenizer.fast_tokenizer()
    added = fast.get_added_tokens_decoder()
    idle = {i for i, token in added.items() if token.special} - {*beginning(tokenizer), tokenizer.eos_id}
    idle -= set(tokenizer.ends)
    pieces = sorted((number, piece) for piece, number in fast.get_vocab().items())
    return [piece for number, piece in pieces if number >= first and number not in idle]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode_batch([text])[0]


def beginning(tokenizer: Tokenizer) -> list[int]:
    """The ids that begin a document or a prompt: one BOS token, or nothing."""
    return [] if tokenizer.bos_id is None else [tokenizer.bos_id]


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt, with the BOS token if the tokenizer has one."""
    return beginning(tokenizer) + encode(tokenizer, prompt)


def encode_continuations(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts that follow a newline, as an answer follows its prompt: without a beginning-of-text space.

    Raises UserError if the tokenizer joins the newline with the text.
    """
    newline = encode(tokenizer, "\n")
    encoded = tokenizer.encode_batch(["\n" + text for text in texts])
    for ids, text in zip(encoded, texts, strict=True):
        # True of every text without leading white space: no supported vocabulary joins a newline with other characters.
        if ids[: len(newline)] != newline:
            raise UserError(f"the tokenizer joins a newline with {text[:20]!r}: strip the answer's leading white space")
    return [ids[len(newline) :] for ids in encoded]


def encode_after_end(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts that follow the end-of-text token, as transformers encodes them in a rendered conversation.

    After a control token, tokenizers encode text as at the beginning of a text (some prepend a space) or as after a
    newline; with the flag rstrip, as of Phi-3's, the token also takes the white space that follows it. Raises UserError
    if this tokenizer does none of these.
    """
    from tokenizers import Tokenizer as FastTokenizer

    with_control = FastTokenizer.from_str(tokenizer.fast_tokenizer().to_str())
    with_control.encode_special_tokens = False
    end: str = with_control.id_to_token(tokenizer.eos_id)  # type: ignore[assignment]  # the id is in the vocabulary
    if tokenizer.eos_id not in with_control.get_added_tokens_decoder():
        with_control.add_special_tokens([end])
    probe = "\n\nx y"
    ids = with_control.encode("x" + end + probe, add_special_tokens=False).ids
    wanted = ids[ids.index(tokenizer.eos_id) + 1 :] if tokenizer.eos_id in ids else None
    for change in (str, str.lstrip):
        for encode_texts in (tokenizer.encode_batch, partial(encode_continuations, tokenizer)):
            try:
                ids = encode_texts([change(probe)])[0]
            except UserError:  # a continuation whose newlines are joined
                continue
            if ids == wanted:
                return encode_texts([change(text) for text in texts])
    raise UserError(
        "the tokenizer encodes text after its end-of-text token in an unsupported way: use data without follow-up turns"
    )


def ids_before(prepared: Sequence[int], plain: Sequence[int]) -> list[int]:
    """The ids that a tokenizer puts before a text: `prepared` with its additions, `plain` without. Those behind it,
    such as an EOS, belong to a finished text and not to a prompt."""
    places = range(len(prepared) - len(plain) + 1)
    start = next((i for i in places if list(prepared[i : i + len(plain)]) == list(plain)), 0)
    return list(prepared[:start])


def ends_of(files: TokenFiles, eos_id: int) -> tuple[int, ...]:
    """The ids at which generation stops: those of generation_config.json, or else EOS and those of config.json."""
    return files.ends if files.ends_are_all else tuple(dict.fromkeys((eos_id, *files.ends)))


def vocabulary_hash(vocabulary: dict[str, int]) -> str:
    """Hash of the pieces in the order of their ids, equal for a SentencePiece model and its tokenizer.json."""
    pieces = sorted(vocabulary.items(), key=lambda item: (item[1], item[0]))
    return hashlib.sha256(json.dumps(pieces).encode()).hexdigest()


class JsonTokenizer:
    """A folder's `tokenizer.json`, run by the `tokenizers` library."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer as FastTokenizer

        self.folder, path = folder, folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"{path} is missing: a run folder contains its tokenizer, copy it along with its checkpoints"
            )
        self.files = read_token_files(folder)
        self.json = read_tokenizer_json(path, self.files)
        try:
            with without_stack_traces():
                self.fast = FastTokenizer.from_str(self.json.marked)
                self.fast.encode_special_tokens = True  # control tokens written in a text stay text
                before = self._ids_before()
                encode(self, UNKNOWN)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of its Rust code is not an Exception
            raise UserError(f"{path} is not a tokenizer: {first_line(error)}") from error
        if not any((folder / name).is_file() for name in ("tokenizer_config.json", "special_tokens_map.json")):
            raise UserError(f"{folder}/tokenizer_config.json is missing: it names the end-of-text token")
        if len(before) > 1:
            raise UserError(f"{path} puts {len(before)} tokens before a text: only one BOS token is supported")
        self.bos_id: int | None = before[0] if before else None
        self.eos_id = self._id_of("eos_token")
        self.ends = ends_of(self.files, self.eos_id)
        self._check_tokens()

    def _id_of(self, name: str) -> int:
        content = self.files.named.get(name)
        found = None if content is None else self.fast.token_to_id(content)
        if found is None:
            raise UserError(f"{self.folder}/tokenizer_config.json: {name} {content!r:.60} is not in tokenizer.json")
        return found

    def _ids_before(self) -> list[int]:
        """The ids that the tokenizer itself puts before a text, which training must therefore put there too."""
        plain, prepared = (self.fast.encode("a", add_special_tokens=special).ids for special in (False, True))
        return ids_before(prepared, plain)

    def _check_tokens(self) -> None:
        """Raise UserError for tokens that tokenizer.json lacks, and for a text that is read as a control token."""
        absent = [content for content in self.files.added if self.fast.token_to_id(content) is None]
        if absent:
            raise UserError(
                f"{self.folder}: the added token {absent[0]!r:.60} is not in tokenizer.json: load the tokenizer with "
                "transformers and save it again"
            )
        control = {self.token(i): i for i in (self.bos_id, *self.ends)} | {
            token: self.fast.token_to_id(token) for token in self.special_tokens()
        }
        unknown = self.fast.token_to_id(self.files.named.get("unk_token", ""))
        texts = [text for content in control for text in (content, f"x{content}")]
        for place, ids in enumerate(self.encode_batch(texts)):
            content = list(control)[place // 2]
            if control[content] in ids and control[content] != unknown:
                raise UserError(
                    f"{self.folder}/tokenizer.json reads {content!r:.60} in a text as its control token: use a "
                    "tokenizer in which it stays text"
                )

    @property
    def vocab_size(self) -> int:
        return max(self.fast.get_vocab().values()) + 1

    @cached_property
    def hash(self) -> str:
        return vocabulary_hash(self.fast.get_vocab())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.fast.encode_batch(list(texts), add_special_tokens=False)]

    def fast_tokenizer(self) -> Any:
        return self.fast

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens leave nothing, as in transformers, the one for what is unknown included."""
        return self.fast.decode([i for i in ids if i not in self.silent], skip_special_tokens=False)

    @cached_property
    def silent(self) -> frozenset[int]:
        """The ids that leave nothing in a text. An undeclared tag such as <think> is part of an answer."""
        added = self.fast.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special and token.content not in self.json.undeclared}
        named = [self.fast.token_to_id(token) for token in self.files.named.values()]
        return frozenset({*special, *self.ends, *beginning(self), *(i for i in named if i is not None)})

    def token(self, token_id: int | None) -> str:
        return "" if token_id is None else self.fast.id_to_token(token_id) or ""

    def special_tokens(self) -> list[str]:
        """Every spelling that a reader with control tokens switched on would take for one."""
        added = [token.content for token in self.fast.get_added_tokens_decoder().values() if token.special]
        named = [self.token(self.bos_id), self.token(self.eos_id), *self.kept_names().values()]
        return sorted({token for token in added + named if token})

    def kept_names(self) -> dict[str, str]:
        named = {name: self.files.named[name] for name in KEPT if name in self.files.named}
        return {name: token for name, token in named.items() if self.fast.token_to_id(token) is not None}

    def save(self, folder: Path, trained: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = self.json.marked if trained else self.json.text
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        if (self.folder / "tokenizer.model").is_file():
            shutil.copyfile(self.folder / "tokenizer.model", folder / "tokenizer.model")
        write_texts(folder, self, self.kept_names(), trained)


class SentencePieceTokenizer:
    """A LLaMA-format SentencePiece model, run by `tensorflow_text.SentencepieceTokenizer`.

    FastSentencepieceTokenizer is not used: it accepts BPE models and returns wrong ids.
    """

    def __init__(self, path: Path, files: TokenFiles | None = None):
        self.path, self.files = path, files or TokenFiles()
        self.model = read_sentencepiece(path)
        self.added = added_to(self.model, self.files, path)
        trainer = self.model.trainer_spec
        self.bos_id: int | None = self._id_of("bos_token", trainer.bos_id) if self.files.add_bos is not False else None
        self.eos_id = self._id_of("eos_token", trainer.eos_id)
        self.ends = ends_of(self.files, self.eos_id)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        pieces = {piece.piece: i for i, piece in enumerate(self.model.pieces)}
        return pieces | {content: len(self.model.pieces) + i for i, content in enumerate(self.added)}

    def _id_of(self, name: str, default: int) -> int:
        content = self.files.named.get(name)
        found = default if content is None else self.vocabulary.get(content)
        if found is None or (found < len(self.model.pieces) and self.model.pieces[found].type == NORMAL):
            raise UserError(f"{self.path.parent}: {name} {content!r:.60} is not a control token of {self.path.name}")
        return found

    @cached_property
    def _op(self) -> Any:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow
        import tensorflow_text

        # Tokenizing needs no GPU, and TensorFlow would allocate all of its memory.
        tensorflow.config.set_visible_devices([], "GPU")
        return tensorflow_text.SentencepieceTokenizer(model=self.path.read_bytes(), add_bos=False, add_eos=False)

    @property
    def vocab_size(self) -> int:
        return len(self.model.pieces) + len(self.added)

    @cached_property
    def hash(self) -> str:
        return vocabulary_hash(self.vocabulary)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._op.tokenize(list(texts)).to_list() if texts else []

    def fast_tokenizer(self) -> Any:
        return to_fast(self.model, self.bos_id, self.added)

    def save(self, folder: Path, trained: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.path, folder / "tokenizer.model")
        self.fast_tokenizer().save(str(folder / "tokenizer.json"))
        pieces, trainer = self.model.pieces, self.model.trainer_spec
        ids = {"bos_token": trainer.bos_id, "eos_token": trainer.eos_id, "unk_token": trainer.unk_id}
        # Padding is <unk>, never BOS or EOS: an end-of-text token that is masked as padding is never learned.
        tokens = {name: pieces[i].piece for name, i in ids.items()} | {"pad_token": pieces[trainer.unk_id].piece}
        named = {name: token for name, token in self.files.named.items() if name in KEPT and token in self.vocabulary}
        write_texts(folder, self, tokens | named, trained)


def write_texts(folder: Path, tokenizer: Any, tokens: dict[str, str], trained: bool) -> None:
    """Write the files beside tokenizer.json: names of tokens, chat template, and the ids that end a text if several."""
    (folder / "tokenizer_config.json").write_text(config_text(tokens), encoding="utf-8")
    if tokenizer.files.chat_template and not trained:  # a trained model has the prompt of its training
        (folder / "chat_template.jinja").write_text(tokenizer.files.chat_template, encoding="utf-8")
    ends = tuple(dict.fromkeys((tokenizer.eos_id, *tokenizer.ends))) if trained else tokenizer.ends
    if ends != (tokenizer.eos_id,):
        text = json.dumps({"eos_token_id": ends}, indent=2) + "\n"
        (folder / "generation_config.json").write_text(text, encoding="utf-8")


def config_text(tokens: dict[str, str]) -> str:
    """The text of a tokenizer_config.json with these further keys."""
    # PreTrainedTokenizerFast runs tokenizer.json unchanged; LlamaTokenizer of transformers 5 derives its own
    # normalizer, which differs on leading spaces and runs of spaces.
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **tokens}
    return json.dumps(config, indent=2, ensure_ascii=False)


def train_sentencepiece(texts: Iterable[str], path: Path, vocab_size: int) -> None:
    """Train a SentencePiece model with LLaMA's options: BPE, byte fallback, single digits, no normalization."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.splitlines() if line.strip()),
        model_prefix=str(path.with_suffix("")),
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.9999,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    path.with_suffix(".vocab").unlink()
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(path.with_suffix(".model").read_bytes())
    model.trainer_spec.ClearField("model_prefix")  # a local path, which would be published with the model
    path.with_suffix(".model").write_bytes(model.SerializeToString())
