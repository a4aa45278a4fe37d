"""Built-in model sizes, one row each. Others are read from a Hugging Face config.json (`names.read_config`)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's rotary scaling, which stretches slow frequencies beyond the pretraining context."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int  # tokens


@dataclass(frozen=True)
class LlamaConfig:
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

    @property
    def num_params(self) -> int:
        D, H = self.embed_dim, self.head_dim
        attention = 2 * D * H * (self.num_heads + self.num_kv_heads)
        block = attention + 3 * D * self.mlp_dim + 2 * D
        return self.num_layers * block + (1 if self.tie_embeddings else 2) * self.vocab_size * D + D


VARIANTS = {
    "llama_7b": LlamaConfig(32_000, 4096, 11_008, 32, 32, 32, max_length=2048, norm_eps=1e-6),
    "llama_13b": LlamaConfig(32_000, 5120, 13_824, 40, 40, 40, max_length=2048, norm_eps=1e-6),
    "llama2_7b": LlamaConfig(32_000, 4096, 11_008, 32, 32, 32),
    "llama2_13b": LlamaConfig(32_000, 5120, 13_824, 40, 40, 40),
    "llama3_8b": LlamaConfig(128_256, 4096, 14_336, 32, 32, 8, max_length=8192, rope_theta=500_000.0),
    "llama31_8b": LlamaConfig(
        128_256, 4096, 14_336, 32, 32, 8, max_length=131_072, rope_theta=500_000.0,
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
    ),
    "llama32_1b": LlamaConfig(
        128_256, 2048, 8192, 16, 32, 8, head_dim=64, max_length=131_072, rope_theta=500_000.0,
        rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192), tie_embeddings=True,
    ),
    # Versions from v0.3: no sliding window (v0.1 has one) and 768 more vocabulary entries than v0.2.
    "mistral_7b": LlamaConfig(32_768, 4096, 14_336, 32, 32, 8, max_length=32_768, rope_theta=1_000_000.0),
    "smollm2_135m": LlamaConfig(
        49_152, 576, 1536, 30, 9, 3, head_dim=64, max_length=8192, rope_theta=100_000.0, tie_embeddings=True
    ),
    "demo": LlamaConfig(2048, 256, 704, 2, 2, 2, head_dim=64, max_length=2048),
    "tiny": LlamaConfig(256, 32, 64, 2, 4, 2, head_dim=8, max_length=256),
}  # fmt: skip
