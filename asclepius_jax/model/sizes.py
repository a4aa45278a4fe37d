"""The shape and the features of a decoder, and built-in sizes, one row each.

Others are read from a Hugging Face config.json (`huggingface.model_config.read_config`).
"""

import functools
import itertools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

# Kinds of layers: which tokens a query sees, and whether queries and keys are rotated.
FULL, WINDOW, FULL_NOPE, WINDOW_NOPE = "full", "window", "full_nope", "window_nope"
WINDOWED = (WINDOW, WINDOW_NOPE)
LONGEST_PERIOD = 16  # layers; the longest pattern of kinds that one scan repeats


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are changed for contexts beyond those of pretraining.

    llama3 divides slow frequencies and ramps between (arXiv 2407.21783), yarn does so between two numbers of turns
    (arXiv 2309.00071), linear divides all, and longrope divides each by its own number (arXiv 2402.13753).
    """

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 0  # tokens
    kind: Literal["llama3", "linear", "yarn", "longrope"] = "llama3"
    beta_fast: float = 32.0  # yarn: turns within the original context above which a frequency is kept
    beta_slow: float = 1.0  # and below which it is divided
    truncate: bool = True  # yarn: widen the ramp to whole channel pairs
    magnitude: float = 1.0  # yarn and longrope: factor of cosine and sine
    divisors: tuple[float, ...] = ()  # longrope: of each frequency up to the original length
    long_divisors: tuple[float, ...] = ()  # beyond it; kept for the export


class Stretch(NamedTuple):
    """Consecutive layers that one scan runs: a pattern of kinds and how often it is repeated."""

    start: int
    pattern: tuple[str, ...]
    repeats: int

    @property
    def num_layers(self) -> int:
        return len(self.pattern) * self.repeats


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a model. Two checkpoints are interchangeable if and only if their shapes agree."""

    vocab_size: int
    embed_dim: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int  # == num_heads: multi-head; fewer: grouped-query
    head_dim: int = 128
    max_length: int = 4096  # tokens
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False  # the output projection is the embedding table
    # What families add to LLaMA. Each default is LLaMA's, and changes nothing.
    family: str = "llama"  # model_type in config.json, as which a model is exported
    vocab_padding: int = 0  # rows after the vocabulary, so that the tensor axis divides it; always zero
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["none", "head", "whole"] = "none"  # RMSNorm of q and k, over each head or over all heads
    pre_norm: bool = True  # RMSNorm before attention and before the feed-forward part
    post_norm: bool = False  # and of what they add
    unit_offset: bool = False  # norms multiply by 1 + scale
    activation: Literal["silu", "gelu_tanh", "gelu", "xielu"] = "silu"
    gated: bool = True  # act(x gate) * (x up), otherwise act(x up)
    query_scale: float | None = None  # of attention scores; None is head_dim ** -0.5
    query_growth: float = 0.0  # queries at position p are multiplied by 1 + growth * log(1 + p // query_period)
    query_period: int = 1  # tokens
    score_cap: float | None = None  # attention scores become cap * tanh(score / cap)
    logit_cap: float | None = None
    logit_divisor: float = 1.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # of what attention and feed-forward add
    window: int | None = None  # tokens that a query of a windowed layer sees, itself included
    layer_kinds: tuple[str, ...] = ()  # of every layer; empty: all see everything before them
    window_rope_theta: float | None = None  # of windowed layers, without scaling; None: as the others
    rotary_fraction: float = 1.0  # share of a head's channels, the first ones, that are rotated

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of every layer."""
        return self.layer_kinds or (FULL,) * self.num_layers

    @property
    def table_rows(self) -> int:
        """Rows of the embedding table."""
        return self.vocab_size + self.vocab_padding

    @property
    def context(self) -> int:
        """The most tokens of a text. Beyond LongRoPE's original length, other frequencies would be needed."""
        scaling = self.rope_scaling
        longrope = scaling is not None and scaling.kind == "longrope"
        return min(self.max_length, scaling.original_length) if longrope and scaling else self.max_length

    def window_of(self, kind: str) -> int | None:
        return self.window if kind in WINDOWED else None

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """The layers as repeated patterns."""
        return stretches_of(self.kinds)

    def mean_visible(self, row_length: int, causal: bool = True) -> float:
        """Tokens that a query sees in a row of one document, averaged over queries and layers.

        With `causal` false, those that it would see if it were the last of its row.
        """
        total = 0.0
        for kind in self.kinds:
            width = min(self.window_of(kind) or row_length, row_length)
            total += width * (1 - width / (2 * row_length)) if causal and row_length else width
        return total / self.num_layers

    @property
    def block_matrices(self) -> int:
        """Elements of the matrices of a block."""
        attention = 2 * self.embed_dim * self.head_dim * (self.num_heads + self.num_kv_heads)
        return attention + (3 if self.gated else 2) * self.embed_dim * self.mlp_dim

    @property
    def num_params(self) -> int:
        D, H, F, N, K = self.embed_dim, self.head_dim, self.mlp_dim, self.num_heads, self.num_kv_heads
        biases = self.qkv_bias * H * (N + 2 * K) + self.out_bias * D
        biases += self.mlp_bias * ((2 if self.gated else 1) * F + D)
        norms = {"none": 0, "head": 2 * H, "whole": H * (N + K)}[self.qk_norm] + 2 * D * (
            self.pre_norm + self.post_norm
        )
        block = self.block_matrices + biases + norms + 4 * (self.activation == "xielu")
        return self.num_layers * block + (1 if self.tie_embeddings else 2) * self.vocab_size * D + D


def config_from_json(raw: dict[str, Any]) -> DecoderConfig:
    """The configuration from JSON, in which a tuple is a list, and from which fields may be absent."""
    scaling = raw.get("rope_scaling")
    return DecoderConfig(**{**tuples(raw), "rope_scaling": scaling and RopeScaling(**tuples(scaling))})


def tuples(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


@functools.cache
def stretches_of(kinds: tuple[str, ...]) -> tuple[Stretch, ...]:
    """The split of all layers into stretches with the fewest runs of one kind in their patterns: each run is compiled.

    Among equals, the one with the fewest stretches, as each of several needs a copy of its layers' parameters.
    """
    best: dict[int, tuple[int, int, tuple[Stretch, ...]]] = {len(kinds): (0, 0, ())}  # of the layers from each on
    for start in reversed(range(len(kinds))):
        choices = []
        for size in range(1, min(LONGEST_PERIOD, len(kinds) - start) + 1):
            pattern, end = kinds[start : start + size], start
            runs = sum(1 for _ in itertools.groupby(pattern))
            while kinds[end : end + size] == pattern:
                end += size
                more, number, rest = best[end]
                choices.append((runs + more, 1 + number, (Stretch(start, pattern, (end - start) // size), *rest)))
        best[start] = min(choices, key=lambda choice: (*choice[:2], len(choice[2][0].pattern)))
    return best[0][2]


def qwen3(embed_dim: int, mlp_dim: int, num_layers: int, num_heads: int, tied: bool = False) -> DecoderConfig:
    return DecoderConfig(
        151_936, embed_dim, mlp_dim, num_layers, num_heads, 8, max_length=40_960, rope_theta=1_000_000.0, norm_eps=1e-6,
        tie_embeddings=tied, family="qwen3", qk_norm="head",
    )  # fmt: skip


def gemma3(
    vocab_size: int, embed_dim: int, mlp_dim: int, num_layers: int, num_heads: int, num_kv_heads: int, *,
    head_dim: int = 256, query_scale: float = 256**-0.5, max_length: int = 131_072, window: int = 1024,
    scaling: RopeScaling | None = RopeScaling(8.0, kind="linear"),
) -> DecoderConfig:  # fmt: skip
    return DecoderConfig(
        vocab_size, embed_dim, mlp_dim, num_layers, num_heads, num_kv_heads, head_dim, max_length, 1_000_000.0, scaling,
        norm_eps=1e-6, tie_embeddings=True, family="gemma3_text", qk_norm="head", post_norm=True, unit_offset=True,
        activation="gelu_tanh", query_scale=query_scale, embedding_scale=embed_dim**0.5, window=window,
        layer_kinds=tuple(FULL if (i + 1) % 6 == 0 else WINDOW for i in range(num_layers)), window_rope_theta=10_000.0,
    )  # fmt: skip


VARIANTS = {
    "llama_7b": DecoderConfig(32_000, 4096, 11_008, 32, 32, 32, max_length=2048, norm_eps=1e-6),
    "llama_13b": DecoderConfig(32_000, 5120, 13_824, 40, 40, 40, max_length=2048, norm_eps=1e-6),
    "llama2_7b": DecoderConfig(32_000, 4096, 11_008, 32, 32, 32),
    "llama2_13b": DecoderConfig(32_000, 5120, 13_824, 40, 40, 40),
    "llama3_8b": DecoderConfig(128_256, 4096, 14_336, 32, 32, 8, max_length=8192, rope_theta=500_000.0),
    "llama31_8b": DecoderConfig(
        128_256, 4096, 14_336, 32, 32, 8, max_length=131_072, rope_theta=500_000.0,
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
    ),
    "llama32_1b": DecoderConfig(
        128_256, 2048, 8192, 16, 32, 8, head_dim=64, max_length=131_072, rope_theta=500_000.0,
        rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192), tie_embeddings=True,
    ),
    "llama32_3b": DecoderConfig(
        128_256, 3072, 8192, 28, 24, 8, max_length=131_072, rope_theta=500_000.0,
        rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192), tie_embeddings=True,
    ),
    # Versions from v0.3: no sliding window (v0.1 has one) and 768 more vocabulary entries than v0.2.
    "mistral_7b": DecoderConfig(
        32_768, 4096, 14_336, 32, 32, 8, max_length=32_768, rope_theta=1_000_000.0, family="mistral"
    ),
    "smollm2_135m": DecoderConfig(
        49_152, 576, 1536, 30, 9, 3, head_dim=64, max_length=8192, rope_theta=100_000.0, tie_embeddings=True
    ),
    "qwen3_0_6b": qwen3(1024, 3072, 28, 16, tied=True),
    "qwen3_1_7b": qwen3(2048, 6144, 28, 16, tied=True),
    "qwen3_4b": qwen3(2560, 9728, 36, 32, tied=True),
    "qwen3_8b": qwen3(4096, 12_288, 36, 32),
    "qwen3_14b": qwen3(5120, 17_408, 40, 40),
    "qwen3_32b": qwen3(5120, 25_600, 64, 64),
    # The text parts. That of a model with images has 64 more vocabulary entries.
    "gemma3_1b": gemma3(262_144, 1152, 6912, 26, 4, 1, max_length=32_768, scaling=None, window=512),
    "gemma3_4b": gemma3(262_208, 2560, 10_240, 34, 8, 4),
    "gemma3_12b": gemma3(262_208, 3840, 15_360, 48, 16, 8),
    "gemma3_27b": gemma3(262_208, 5376, 21_504, 62, 32, 16, head_dim=128, query_scale=168**-0.5),
    "demo": DecoderConfig(2048, 256, 704, 2, 2, 2, head_dim=64, max_length=2048),
    "tiny": DecoderConfig(256, 32, 64, 2, 4, 2, head_dim=8, max_length=256),
}  # fmt: skip
