"""LLaMA's SentencePiece models: reading them, the tokens added to them, and their equivalent in `tokenizers`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer_files import TokenFiles

SPACE = "▁"  # how SentencePiece writes a space
NORMAL = 1  # its type of a piece of text


def read_sentencepiece(path: Path) -> Any:
    """The model's protocol buffer. Raises UserError if the file is unreadable or its options differ from LLaMA's."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        told = f"{path} is not a SentencePiece model ({error}): pass the folder of its tokenizer.json instead"
        raise UserError(told) from error
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    llama = {
        "model_type BPE": trainer.model_type == trainer.BPE,
        "byte_fallback": trainer.byte_fallback,
        "no normalization": not normalizer.precompiled_charsmap,
        "add_dummy_prefix": normalizer.add_dummy_prefix,
        "remove_extra_whitespaces off": not normalizer.remove_extra_whitespaces,
        "a BOS, an EOS and an unknown piece": min(trainer.bos_id, trainer.eos_id, trainer.unk_id) >= 0,
        "no user-defined pieces": all(piece.type != piece.USER_DEFINED for piece in model.pieces),
        # A text that is not UTF-8 comes as bytes.
        "pieces that are texts": all(isinstance(piece.piece, str) and piece.piece for piece in model.pieces),
        "pieces that differ": len({piece.piece for piece in model.pieces}) == len(model.pieces),
        "scores that are numbers": all(math.isfinite(piece.score) for piece in model.pieces),
        "control tokens among its pieces": max(trainer.bos_id, trainer.eos_id, trainer.unk_id) < len(model.pieces),
    }
    missing = [name for name, holds in llama.items() if not holds]
    if missing:
        raise UserError(
            f"{path} lacks LLaMA's options: {', '.join(missing)}; pass the folder of its tokenizer.json instead"
        )
    return model


def added_to(model: Any, files: TokenFiles, path: Path) -> list[str]:
    """Texts of the tokens that the files beside a SentencePiece model append to its pieces.

    Raises UserError if transformers would give them other ids, or if they occur in ordinary text, which SentencePiece
    would not cut at them.
    """
    pieces = {piece.piece: i for i, piece in enumerate(model.pieces)}
    new = sorted((number, content) for content, number in files.added.items() if pieces.get(content) != number)
    for expected, (number, content) in enumerate(new, len(pieces)):
        if number != expected or content in pieces:
            raise UserError(
                f"{path.parent}: the added token {content!r:.60} has the id {number}, not {expected}, the next one "
                f"after the pieces of {path.name}: use the files that belong together"
            )
        if not files.is_control(content):
            raise UserError(
                f"{path.parent}: the added token {content!r:.60} is ordinary text, which needs a tokenizer.json: load "
                "the tokenizer with transformers and save it again"
            )
    return [content for _, content in new]


def to_fast(model: Any, bos_id: int | None, added: Sequence[str]) -> Any:
    """The `tokenizers` equivalent of a LLaMA SentencePiece model, with further control tokens behind its pieces.

    SentencePiece merges the pair whose joined piece scores highest; `tokenizers` follows a ranked list of pairs. The
    list therefore holds every way to join two pieces into a third, ranked by the third's score. If scores tie,
    SentencePiece takes the leftmost pair, and so grows a run of spaces from its left end; ranking the longest joined
    piece first does the same. No piece is registered as an added token, because `tokenizers` finds added tokens in
    plain text; further tokens have no other place, and are marked as special.
    """
    from tokenizers import AddedToken, decoders, models, normalizers, processors
    from tokenizers import Tokenizer as FastTokenizer

    vocabulary = {piece.piece: i for i, piece in enumerate(model.pieces)}
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == piece.NORMAL}
    merges = []
    for joined, score in scores.items():
        for split in range(1, len(joined)):
            left, right = joined[:split], joined[split:]
            if left in scores and right in scores:
                merges.append((-score, -len(joined), vocabulary[left], vocabulary[right], left, right))
    unknown = model.pieces[model.trainer_spec.unk_id].piece
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
    fast.add_special_tokens([AddedToken(content, special=True, normalized=False) for content in added])
    fast.encode_special_tokens = True
    if bos_id is not None:
        bos = fast.id_to_token(bos_id)
        fast.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
        )
    fast.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast
