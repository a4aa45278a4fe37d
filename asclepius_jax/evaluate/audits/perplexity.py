"""Perplexity of texts under a fixed language model, by one protocol that makes figures comparable.

1. Each text is tokenized on its own, without special tokens. It is preceded by the scoring model's BOS (EOS if there is
   no BOS), which is not scored, so that every token of the text has a context.
2. A text longer than the window is read in overlapping windows, each shifted by `stride` tokens. Every token is scored
   once, by the first window that contains it, with a context of at least `window - stride` tokens.
3. A corpus is scored as a whole: the summed negative log-likelihood over all tokens (or bytes) of all its texts.

Logarithms are natural. Bits per byte do not depend on the tokenizer, but perplexity per token does.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asclepius_jax.evaluate.statistics.estimates import Estimate, mean, ratio_of_sums, transformed
from data_prep.contract.errors import UserError
from data_prep.teachers.endpoint.replies import one_line


@dataclass(frozen=True)
class Scored:
    """Negative log-likelihood of one text in nats, with its number of tokens and bytes."""

    nats: float
    tokens: int
    bytes: int
    last: np.ndarray = field(
        default_factory=lambda: np.zeros(0), compare=False
    )  # last hidden state of the text's first window


def longest_of(folder: Path) -> int:
    """Context length, in tokens, of the model in a Hugging Face folder. Raises UserError if it is not such a folder."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a Hugging Face folder: config.json is missing")
    return int(AutoConfig.from_pretrained(folder).max_position_embeddings)


class Scorer:
    """Scoring model from a Hugging Face folder, with weights in float32 on a CPU and in bfloat16 on a GPU."""

    def __init__(self, folder: Path, window: int, stride: int):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        longest = longest_of(folder)
        if not 0 < stride < window:
            # With stride = window, the first token of a window would have no context.
            raise UserError(f"--stride {stride}: must be above 0 and below --window {window}")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        try:
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(self.device).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise UserError(f"transformers cannot load {folder} ({one_line(error)})") from error
        self.window = min(window, longest)
        # Scaled with the window: a stride close to the window would leave tokens with almost no context.
        self.stride = max(1, stride * self.window // window)
        begin = self.tokenizer.bos_token_id
        self.begin = self.tokenizer.eos_token_id if begin is None else begin
        if self.begin is None:
            raise UserError(f"{folder}: its tokenizer has neither BOS nor EOS; choose another scoring model")

    def score(self, text: str) -> Scored:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            return Scored(0.0, 0, len(text.encode()))
        nats, last = self.nats([self.begin, *ids])
        return Scored(nats, len(ids), len(text.encode()), last)

    def nats(self, ids: Sequence[int]) -> tuple[float, np.ndarray]:
        """Negative log-likelihood of all ids but the first, and the last hidden state of the first window."""
        import torch

        total, scored, start = 0.0, 1, 0
        last = np.zeros(0)
        while scored < len(ids):
            end = min(start + self.window, len(ids))
            window = torch.tensor([ids[start:end]], device=self.device)
            with torch.no_grad():
                out = self.model(window, output_hidden_states=not start)
            if not start:
                last = out.hidden_states[-1][0, -1].float().cpu().numpy()
            logits_TV = out.logits[0].float()
            first = scored - start  # first token of this window that is not scored yet
            likelihood_TV = torch.log_softmax(logits_TV[first - 1 : -1], dim=-1)
            total -= float(likelihood_TV.gather(1, window[0, first:, None]).double().sum())
            scored, start = end, start + self.stride
        return total, last


def perplexity(scored: Sequence[Scored], cases: Sequence[Hashable]) -> Estimate:
    """Perplexity per token of a corpus. cases: case of each text; those of one case are a cluster."""
    return transformed(corpus_estimate([s.tokens for s in scored], scored, cases), math.exp)


def bits_a_byte(scored: Sequence[Scored], cases: Sequence[Hashable]) -> Estimate:
    """Bits per byte of a corpus, clustered like `perplexity`."""
    return transformed(corpus_estimate([s.bytes for s in scored], scored, cases), lambda nats: nats / math.log(2))


def perplexity_a_text(scored: Sequence[Scored], cases: Sequence[Hashable]) -> Estimate:
    """Unweighted mean over texts of their perplexity per token."""
    return mean([math.exp(s.nats / s.tokens) if s.tokens else None for s in scored], cases)


def corpus_estimate(counts: Sequence[int], scored: Sequence[Scored], cases: Sequence[Hashable]) -> Estimate:
    """Nats per token or byte; texts without any are missing."""
    nats = [s.nats if count else None for s, count in zip(scored, counts, strict=True)]
    return ratio_of_sums(nats, counts, cases)
