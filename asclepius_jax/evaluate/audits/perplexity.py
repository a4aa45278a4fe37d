"""How surprising texts are to a fixed language model: by one protocol, so that figures can be compared.

1. The text is tokenized alone, without special tokens, and begins with the scoring model's BOS (its EOS where it has no
   BOS), which is never scored itself: every token of the text has something before it.
2. A text longer than the window is read in windows that overlap: each moves on by `stride` tokens, and only tokens that
   no window has scored yet count, so that each is scored once, with at least `window - stride` tokens before it.
3. A corpus is scored as one: the sum of the negative log-likelihoods over all tokens (or bytes) of all its texts.

Natural logarithms within; `bits a byte` does not depend on the tokenizer, perplexity a token does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asclepius_jax.evaluate.statistics.estimates import Estimate, estimate_of_sums, mean
from data_prep.contract.errors import UserError
from data_prep.teachers.endpoint.replies import one_line


@dataclass(frozen=True)
class Scored:
    """One text: its negative log-likelihood in nats, and what that is spread over."""

    nats: float
    tokens: int
    bytes: int
    last: np.ndarray = field(
        default_factory=lambda: np.zeros(0), compare=False
    )  # the last hidden state of its beginning


def longest_of(folder: Path) -> int:
    """Tokens that a Hugging Face folder's model can see at once."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no Hugging Face folder: it has no config.json")
    return int(AutoConfig.from_pretrained(folder).max_position_embeddings)


class Scorer:
    """A Hugging Face folder as a scoring model, in float32 on the processor and bfloat16 weights on a GPU."""

    def __init__(self, folder: Path, window: int, stride: int):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        longest = longest_of(folder)
        if not 0 < stride < window:
            # As far apart as they are long, the first token of a window would have nothing before it.
            raise UserError(f"--stride {stride}: it must be above 0 and below --window {window}")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        try:
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(self.device).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} cannot be opened with transformers ({one_line(error)})") from error
        self.window = min(window, longest)
        # In proportion: a window that moves on by nearly its length scores tokens with nearly nothing before them.
        self.stride = max(1, stride * self.window // window)
        begin = self.tokenizer.bos_token_id
        self.begin = self.tokenizer.eos_token_id if begin is None else begin
        if self.begin is None:
            raise UserError(f"{folder}: its tokenizer has neither BOS nor EOS")

    def score(self, text: str) -> Scored:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            return Scored(0.0, 0, len(text.encode()))
        nats, last = self.nats([self.begin, *ids])
        return Scored(nats, len(ids), len(text.encode()), last)

    def nats(self, ids: Sequence[int]) -> tuple[float, np.ndarray]:
        """Of all ids but the first; and the hidden state of the last token in the first window."""
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
            first = scored - start  # the first of the window that no window has scored
            likelihood_TV = torch.log_softmax(logits_TV[first - 1 : -1], dim=-1)
            total -= float(likelihood_TV.gather(1, window[0, first:, None]).double().sum())
            scored, start = end, start + self.stride
        return total, last


def perplexity(scored: Sequence[Scored]) -> Estimate:
    """A token, of the corpus; the interval resamples texts."""
    return of_corpus([s.tokens for s in scored], scored, np.exp)


def bits_a_byte(scored: Sequence[Scored]) -> Estimate:
    return of_corpus([s.bytes for s in scored], scored, lambda nats: nats / math.log(2))


def perplexity_a_text(scored: Sequence[Scored]) -> Estimate:
    """The mean over texts of each one's perplexity a token, each text counting the same."""
    return mean([math.exp(s.nats / s.tokens) if s.tokens else None for s in scored], list(range(len(scored))))


def of_corpus(spread: Sequence[int], scored: Sequence[Scored], unit: Any) -> Estimate:
    columns = np.array([[s.nats, over] for s, over in zip(scored, spread, strict=True)], float).reshape(-1, 2)
    columns[columns[:, 1] == 0] = np.nan

    def figure(sums: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return unit(sums[..., 0] / sums[..., 1])

    return estimate_of_sums(columns, list(range(len(scored))), figure)
