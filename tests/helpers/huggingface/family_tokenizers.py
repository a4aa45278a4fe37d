"""Small tokenizers of the kinds that model families have, as folders on the hub; and real ones, if any are at hand."""

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.made_inputs import make_tokenizer, sentences
from tests.helpers.places import SHARED

REAL = "ASCLEPIUS_TOKENIZERS"  # names a folder that holds one folder for each real tokenizer
WORD_OR_DIGITS = (  # as GPT-4 cuts a text before merging, with at most this many digits together
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
CASED = (  # as tekken does
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CONTROL = (  # without Gemma's <mask>, which transformers marks as special in GemmaTokenizer whatever a folder says
    *("<|im_end|>", "<|im_start|>", "<end_of_turn>", "<start_of_turn>", "<|begin_of_text|>", "<|eot_id|>", "<|end|>"),
    *("[INST]", "[/INST]", "[@BOS@]", "</s>", "<s>", "<bos>", "<eos>", "<pad>", "<unk>", "<think>"),
    *("</think>", "<tool_call>", "<|endoftext|>", "<|pad|>", "<unused7>", "<|reserved_special_token_5|>"),
    *("<SPECIAL_20>", "<|fim_prefix|>", "<image_soft_token>", "|||a|||a|||", "<0x0A>"),
)
HARD = (
    *("e\u0301cole cafe\u0301", "\u212b \u212a \u2126 \u1112\u1161\u11ab", "x\u0327\u0301", "\u0301x", "   run"),
    *(
        "a       b",
        "a\n\n\n\nb",
        "\r\n\r\nx",
        "\t\tx",
        "tab\t x",
        " \n \n",
        "1234567890",
        "3.14159 1,000,000",
        "12.5mg",
    ),
    *("5×10⁹/L", "👩\u200d⚕️🙂", "患者は発熱した。", "血压120/80。", "пациент", "مريض", "नमस्ते", "\u200b", "\ufeff"),
    *("\u00a0x", "\x07", "½™ﬁ", "I'M don't WE'LL", "\u3000x", "µg μg", "aaaaaaaaaaaa", "-----", "▁", "▁▁▁", "Ġ"),
    *("\u2028x", "\x85x", "</", "<b>bold</b>", "<table>", "|||PHONE|||", "\U0010fffd", "fever", " ", "\n", "  "),
)


def texts(count: int, seed: int = 0) -> list[str]:
    """Sentences of clinical texts, real ones if there are any, and as many strings of hard fragments in any order."""
    draw = random.Random(seed)
    path = SHARED / "data/mtsamples.jsonl"
    clinical = sentences(count // 2, 30, seed)
    if path.is_file():
        notes = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
        clinical = draw.sample([s for text in notes for s in re.split(r"(?<=[.!?])\s+", text) if s.strip()], count // 2)
    parts = [*HARD, *CONTROL]
    hard = ["".join(draw.choices(parts, k=draw.randrange(1, 13))) for _ in range(count - len(clinical))]
    return clinical + hard


def real_tokenizers() -> list[Any]:
    """Parameters of a test: the folders of real tokenizers, or one that is skipped if there are none."""
    found = sorted(path.parent for path in Path(os.environ.get(REAL) or "/nowhere").glob("*/tokenizer.json"))
    absent = pytest.mark.skip(reason=f"no real tokenizers: set {REAL} to a folder with one folder for each")
    return [pytest.param(path, id=path.name) for path in found] or [pytest.param(Path(), marks=absent)]


def make_family(name: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    FAMILIES[name](folder)
    return folder


def added(special: list[str], ordinary: list[str] | None = None, **flags: bool) -> list[Any]:
    from tokenizers import AddedToken

    marked = [(content, True) for content in special] + [(content, False) for content in ordinary or []]
    return [AddedToken(content, special=is_special, normalized=False, **flags) for content, is_special in marked]


def save(folder: Path, fast: Any, ends: list[int] | int, **config: Any) -> None:
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))


def byte_level(pattern: str, behavior: str = "isolated", invert: bool = False, normalizer: Any = None) -> Any:
    """A BPE over bytes, which cuts texts by a pattern first."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    fast = Tokenizer(models.BPE())
    fast.normalizer = normalizer
    split = pre_tokenizers.Split(Regex(pattern), behavior, invert)
    fast.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    fast.train_from_iterator([*sentences(300, 30), *HARD * 3], trainer)
    return fast


def begins_with(fast: Any, token: str) -> Any:
    from tokenizers import processors

    special = [(token, fast.token_to_id(token))]
    return processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=special)


def llama_3(folder: Path) -> None:
    from tokenizers import processors

    fast = byte_level(WORD_OR_DIGITS.replace("DIGITS", "{1,3}"))
    fast.model.ignore_merges = True
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    fast.add_special_tokens(added([*names, *(f"<|reserved_special_token_{i}|>" for i in range(251))]))
    bos = begins_with(fast, "<|begin_of_text|>")
    fast.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos])
    ends = [fast.token_to_id(name) for name in ("<|end_of_text|>", "<|eot_id|>")]
    template = CHAT.replace("<|im_start|>", "<|start_header_id|>").replace("<|im_end|>", "<|eot_id|>")
    save(folder, fast, ends, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", chat_template=template,
         clean_up_tokenization_spaces=True)  # fmt: skip


def qwen(folder: Path) -> None:
    from tokenizers import normalizers

    fast = byte_level(WORD_OR_DIGITS.replace("DIGITS", ""), normalizer=normalizers.NFC())
    fast.add_tokens(added(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<tool_call>", "<think>", "</think>"]))
    ends = [fast.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>")]
    save(folder, fast, ends, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None, chat_template=CHAT)


def olmo(folder: Path) -> None:
    fast = byte_level(WORD_OR_DIGITS.replace("DIGITS", "{1,3}"), "removed", invert=True)
    ordinary = ["<|extra_id_0|>", "|||PHONE|||"]
    fast.add_tokens(added(["<|endoftext|>", "<|pad|>", "<|im_end|>", "|||a|||a|||"], ordinary))
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    save(folder, fast, fast.token_to_id("<|endoftext|>"), **names, pad_token="<|pad|>")


def tekken(folder: Path) -> None:
    fast = byte_level(CASED)
    fast.model.ignore_merges = True
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>"]
    fast.add_special_tokens(added([*names, *(f"<SPECIAL_{i}>" for i in range(14, 1000))]))
    fast.post_processor = begins_with(fast, "<s>")
    save(folder, fast, fast.token_to_id("</s>"), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
         add_bos_token=True, chat_template=CHAT.replace("<|im_start|>", "[INST]"))  # fmt: skip


def gemma(folder: Path) -> None:
    """A BPE over characters and bytes, without a space before a text and with ordinary tokens in angle brackets."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[@BOS@]", *(f"<unused{i}>" for i in range(99))]
    tags = ["<table>", "</table>", "<b>", "</b>", "\n\n", "\n\n\n", "▁▁"]
    pieces = [*control, "<start_of_turn>", "<end_of_turn>", *tags, *(f"<0x{i:02X}>" for i in range(256))]
    normalizer, split = normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = normalizer, pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False)
    learner.train_from_iterator(sentences(300, 30), trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces += [piece for piece in learned["vocab"] if piece not in pieces]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learned["merges"]]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    fast = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    fast.normalizer, fast.pre_tokenizer = normalizer, split
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<image_soft_token>"]
    fast.add_tokens(added(special, [*control[4:], *tags]))
    fast.post_processor = begins_with(fast, "<bos>")
    ends = [fast.token_to_id(name) for name in ("<eos>", "<end_of_turn>")]
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "pad", "unk")}
    save(folder, fast, ends, **names, eos_token="<eos>", add_bos_token=True, tokenizer_class="GemmaTokenizer",
         chat_template=CHAT.replace("<|im_start|>", "<start_of_turn>"))  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma2"}))


def phi_3(folder: Path) -> None:
    """LLaMA's pieces, with tokens that take the white space behind them."""
    from tokenizers import Tokenizer

    made = make_tokenizer(folder / "made")
    fast = Tokenizer.from_file(str(made / "tokenizer.json"))
    fast.add_special_tokens([*added(["<s>"]), *added(["</s>", "<|end|>", "<|user|>"], rstrip=True)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<|end|>"}
    save(folder, fast, [2, fast.token_to_id("<|end|>")], **names, chat_template=CHAT)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "Llama 3": llama_3,
    "Qwen": qwen,
    "OLMo": olmo,
    "tekken": tekken,
    "Gemma": gemma,
    "Phi-3": phi_3,
}
