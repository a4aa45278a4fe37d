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

from data_prep.contract.errors import UserError

SPACE = "▁"  # how SentencePiece writes a space


class Tokenizer(Protocol):
    bos_id: int | None  # None if the tokenizer prepends nothing
    eos_id: int

    @property
    def vocab_size(self) -> int: ...

    @property
    def hash(self) -> str: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def fast_tokenizer(self) -> Any:
        """The equivalent tokenizer of the `tokenizers` library, which transformers runs."""

    def save(self, folder: Path) -> None: ...


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a SentencePiece `.model` file, or a folder with `tokenizer.json` or `tokenizer.model`."""
    path = Path(path)
    if path.is_file() and path.suffix == ".model":
        return SentencePieceTokenizer(path)
    if (path / "tokenizer.json").is_file():
        return JsonTokenizer(path)
    if (path / "tokenizer.model").is_file():
        return SentencePieceTokenizer(path / "tokenizer.model")
    raise UserError(f"{path} is not a tokenizer: pass a SentencePiece .model file or a folder with tokenizer.json")


def check_vocabulary(tokenizer: Tokenizer, rows: int, where: str | Path) -> None:
    """Raise UserError if the tokenizer has more pieces than the embedding has rows; print the number of unused rows."""
    pieces = tokenizer.vocab_size
    if pieces > rows:
        raise UserError(
            f"{where}: the tokenizer has {pieces} pieces, the embedding {rows} rows: use the tokenizer of this model, "
            "or add embedding rows for the new pieces"
        )
    if pieces < rows:
        print(
            f"{where}: the tokenizer has {pieces} pieces, the embedding {rows} rows; the {rows - pieces} padding rows "
            "are kept"
        )


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
    newline. Raises UserError if this tokenizer does neither.
    """
    from tokenizers import Tokenizer as FastTokenizer

    with_control = FastTokenizer.from_str(tokenizer.fast_tokenizer().to_str())
    with_control.encode_special_tokens = False
    end: str = with_control.id_to_token(tokenizer.eos_id)  # type: ignore[assignment]  # the id is in the vocabulary
    with_control.add_special_tokens([end])
    probe = "\n\nx y"
    wanted = with_control.encode(end + probe, add_special_tokens=False).ids[1:]
    for encode_texts in (tokenizer.encode_batch, partial(encode_continuations, tokenizer)):
        if encode_texts([probe])[0] == wanted:
            return encode_texts(texts)
    raise UserError(
        "the tokenizer encodes text after its end-of-text token in an unsupported way: use data without follow-up turns"
    )


def vocabulary_hash(vocabulary: dict[str, int]) -> str:
    """Hash of the pieces in the order of their ids, equal for a SentencePiece model and its tokenizer.json."""
    pieces = sorted(vocabulary.items(), key=lambda item: item[1])
    return hashlib.sha256(json.dumps(pieces).encode()).hexdigest()


class JsonTokenizer:
    """A folder's `tokenizer.json`, run by the `tokenizers` library."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer as FastTokenizer

        self.folder = folder
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"{path} is missing: a run folder contains its tokenizer, copy it along with its checkpoints"
            )
        try:
            self.fast = FastTokenizer.from_file(str(path))
        except Exception as error:
            raise UserError(f"{path} is not a tokenizer: {error}") from error
        self.fast.no_padding()
        self.fast.no_truncation()
        self.fast.encode_special_tokens = True  # control tokens written in a text stay text
        config_path = folder / "tokenizer_config.json"
        if not config_path.is_file():
            raise UserError(f"{config_path} is missing: it names the end-of-text token")
        try:
            self.config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{config_path} is not JSON: {error}") from error
        self.eos_id = self._id_of("eos_token")
        self.bos_id = self._prepended_id()

    def _id_of(self, name: str) -> int:
        token = self.config.get(name)
        content = token["content"] if isinstance(token, dict) else token
        found = None if content is None else self.fast.token_to_id(content)
        if found is None:
            raise UserError(f"{self.folder}/tokenizer_config.json: {name} {content!r} is not in tokenizer.json")
        return found

    def _prepended_id(self) -> int | None:
        """The id that the tokenizer itself prepends to a text, which training must therefore prepend too; or None."""
        plain = self.fast.encode("a", add_special_tokens=False).ids
        prepared = self.fast.encode("a", add_special_tokens=True).ids
        return prepared[0] if len(prepared) > len(plain) and prepared[0] != plain[0] else None

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
        """The text of ids; control tokens leave nothing, as in transformers, the one for what is unknown included."""
        named = (self.config.get(f"{name}_token") for name in ("unk", "pad"))
        others = {self.fast.token_to_id(t["content"] if isinstance(t, dict) else t) for t in named if t}
        control = {self.bos_id, self.eos_id, *others}
        return self.fast.decode([i for i in ids if i not in control], skip_special_tokens=True)

    def token(self, token_id: int | None) -> str:
        return "" if token_id is None else self.fast.id_to_token(token_id) or ""

    def special_tokens(self) -> list[str]:
        """Every spelling that a reader with control tokens switched on would take for one."""
        added = [token.content for token in self.fast.get_added_tokens_decoder().values() if token.special]
        named = [self.token(self.bos_id), self.token(self.eos_id), self.config.get("unk_token") or ""]
        return sorted({token for token in added + named if token})

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer.model"):
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)
        kept = {
            name: token["content"] if isinstance(token, dict) else token
            for name in ("bos_token", "eos_token", "unk_token", "pad_token")
            if (token := self.config.get(name)) is not None
        }
        write_config(folder, kept)


class SentencePieceTokenizer:
    """A LLaMA-format SentencePiece model, run by `tensorflow_text.SentencepieceTokenizer`.

    FastSentencepieceTokenizer is not used: it accepts BPE models and returns wrong ids.
    """

    def __init__(self, path: Path):
        self.path = path
        self.model = read_sentencepiece(path)
        trainer = self.model.trainer_spec
        self.bos_id: int | None = trainer.bos_id
        self.eos_id: int = trainer.eos_id

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
        return len(self.model.pieces)

    @cached_property
    def hash(self) -> str:
        return vocabulary_hash({piece.piece: i for i, piece in enumerate(self.model.pieces)})

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._op.tokenize(list(texts)).to_list() if texts else []

    def fast_tokenizer(self) -> Any:
        return to_fast(self.model)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.path, folder / "tokenizer.model")
        to_fast(self.model).save(str(folder / "tokenizer.json"))
        pieces, trainer = self.model.pieces, self.model.trainer_spec
        names = {"bos_token": trainer.bos_id, "eos_token": trainer.eos_id, "unk_token": trainer.unk_id}
        tokens = {name: pieces[i].piece for name, i in names.items()}
        # Padding is <unk>, never BOS or EOS: an end-of-text token that is masked as padding is never learned.
        write_config(folder, {**tokens, "pad_token": tokens["unk_token"]})


def write_config(folder: Path, tokens: dict[str, str]) -> None:
    # PreTrainedTokenizerFast runs tokenizer.json unchanged; LlamaTokenizer of transformers 5 derives its own
    # normalizer, which differs on leading spaces and runs of spaces.
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def read_sentencepiece(path: Path) -> Any:
    """The model's protocol buffer. Raises UserError if the file is unreadable or its options differ from LLaMA's."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(f"{path} is not a SentencePiece model: {error}") from error
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    llama = {
        "model_type BPE": trainer.model_type == trainer.BPE,
        "byte_fallback": trainer.byte_fallback,
        "no normalization": not normalizer.precompiled_charsmap,
        "add_dummy_prefix": normalizer.add_dummy_prefix,
        "remove_extra_whitespaces off": not normalizer.remove_extra_whitespaces,
        "a BOS, an EOS and an unknown piece": min(trainer.bos_id, trainer.eos_id, trainer.unk_id) >= 0,
        "no user-defined pieces": all(piece.type != piece.USER_DEFINED for piece in model.pieces),
    }
    missing = [name for name, holds in llama.items() if not holds]
    if missing:
        raise UserError(
            f"{path} lacks LLaMA's options: {', '.join(missing)}; pass the folder of its tokenizer.json instead"
        )
    return model


def to_fast(model: Any) -> Any:
    """The `tokenizers` equivalent of a LLaMA SentencePiece model.

    SentencePiece merges the pair whose joined piece scores highest; `tokenizers` follows a ranked list of pairs. The
    list therefore holds every way to join two pieces into a third, ranked by the third's score. If scores tie,
    SentencePiece takes the leftmost pair, and so grows a run of spaces from its left end; ranking the longest joined
    piece first does the same. No control token is registered as an added token, because `tokenizers` finds added
    tokens in plain text.
    """
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers import decoders, models, normalizers, processors

    vocabulary = {piece.piece: i for i, piece in enumerate(model.pieces)}
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == piece.NORMAL}
    merges = []
    for joined, score in scores.items():
        for split in range(1, len(joined)):
            left, right = joined[:split], joined[split:]
            if left in scores and right in scores:
                merges.append((-score, -len(joined), vocabulary[left], vocabulary[right], left, right))
    trainer = model.trainer_spec
    unknown, bos = model.pieces[trainer.unk_id].piece, model.pieces[trainer.bos_id].piece
    fast = FastTokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[(left, right) for *_, left, right in sorted(merges)],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    fast.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    fast.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, trainer.bos_id)]
    )
    fast.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast


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
