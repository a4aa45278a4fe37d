"""An estimate of a stage's requests and cost: a teacher that counts requests and sends none.

Requests that the ledger has a reply to are answered and free. For others, tokens are estimated from the ledger's
requests of the same kind, from a tokenizer if one is given, or otherwise from the constants below.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.teachers.base import Request, TeacherConfig
from data_prep.teachers.endpoint.budget import Budget, most_prompt_tokens, usd
from data_prep.teachers.endpoint.ledger import Ledger, request_key
from data_prep.teachers.endpoint.openai import identity
from data_prep.teachers.endpoint.replies import Reply, Usage, read_response, read_usage

# English has about four bytes per token, and fewer with numbers and abbreviations.
TOKENS_PER_BYTE = 0.3
# Tokens of a typical reply. For other kinds, half of --max-tokens is assumed.
USUAL_TOKENS = {"note": 600, "question": 40, "answer": 150, "reading": 300}
# Number of the ledger's requests of a kind to measure.
SAMPLE = 200

# Replaces the replies that are not requested. No filter rejects it, and prompts that quote it are recognized by it.
PLACEHOLDER = (
    "Here stands in due course the text that the model will write, in so many words that no rule about length rejects "
    "it, and with nothing in it that could be checked against anything else."
)


@dataclass
class Kind:
    """Counts of the requests of one kind: their number, and their tokens, expected and at most."""

    requests: int = 0
    known: int = 0  # answered by the ledger
    prompt: float = 0.0
    completion: float = 0.0
    most_prompt: int = 0
    most_completion: int = 0


@dataclass(frozen=True)
class Habit:
    """Average token use of the requests of a kind."""

    tokens_per_byte: float
    completion: float  # tokens per reply


@dataclass
class Counting:
    """A `Teacher` that only counts requests, and its second reader's if there is one; `lines` and `figures` report."""

    config: TeacherConfig
    path: Path
    name: str = "openai"
    kinds: dict[str, Kind] = field(default_factory=dict)
    habits: dict[str, Habit] = field(default_factory=dict)
    reader: "Counting | None" = None

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.path) if self.path.exists() else None
        self.tokenizer: Any = None
        if self.config.tokenizer:
            from data_prep.contract.hub import SMALL_FILES, local_folder
            from data_prep.contract.tokenizer import load_tokenizer

            self.tokenizer = load_tokenizer(local_folder(self.config.tokenizer, SMALL_FILES))

    async def close(self) -> None:
        """No request is in flight, so there is nothing to do."""

    async def ask(self, request: Request) -> Reply:
        if self.reader and request.kind == "reading":
            return await self.reader.ask(request)
        kind = self.kinds.setdefault(request.kind, Kind())
        kind.requests += 1
        request_identity = identity(self.config, request, request.room * self.config.max_tokens)
        raw = self.ledger.response(request_key(request_identity)) if self.ledger else None
        if raw is not None and (reply := read_response(raw, self.config.model)).finish_reason != "error":
            kind.known += 1
            return reply
        habit = self._habit(request.kind)
        replies_inside = sum(message["content"].count(PLACEHOLDER) for message in request.messages)
        kind.prompt += self._tokens(request.messages, habit) + replies_inside * habit.completion
        kind.completion += habit.completion
        # At most: a truncated reply is requested once more with twice the limit (1 + 2 = 3 times max_tokens, and the
        # prompt twice), and every reply quoted in the prompt may be that long.
        most_quoted = replies_inside * 2 * self.config.max_tokens
        kind.most_prompt += 2 * (most_prompt_tokens(request.messages) + most_quoted)
        kind.most_completion += 3 * self.config.max_tokens
        return Reply(PLACEHOLDER, "stop", self.config.model)

    def _tokens(self, messages: Sequence[Mapping[str, str]], habit: Habit) -> float:
        texts = [message["content"].replace(PLACEHOLDER, "") for message in messages]
        if self.tokenizer:
            return sum(len(ids) for ids in self.tokenizer.encode_batch(texts))
        return habit.tokens_per_byte * sum(len(text.encode()) for text in texts)

    def _habit(self, kind: str) -> Habit:
        if kind not in self.habits:
            usual = min(USUAL_TOKENS.get(kind, self.config.max_tokens / 2), self.config.max_tokens)
            self.habits[kind] = self._measured(kind) or Habit(TOKENS_PER_BYTE, usual)
        return self.habits[kind]

    def _measured(self, kind: str) -> Habit | None:
        """The averages of this kind's requests in the ledger; None if there are none."""
        sample = self.ledger.answered(kind, SAMPLE) if self.ledger else ()
        used = [(json.loads(request), usage) for request, raw in sample if (usage := read_usage(raw))]
        if not used:
            return None
        size = sum(len(message["content"].encode()) for request, _ in used for message in request["messages"])
        prompt, completion = sum(usage.prompt for _, usage in used), sum(usage.completion for _, usage in used)
        return Habit(prompt / max(size, 1), completion / len(used))

    def figures(self) -> dict[str, Any]:
        """Totals over all kinds; costs in USD, which are left out if there are no prices."""
        kinds = self.kinds.values()
        expected = Usage(round(sum(kind.prompt for kind in kinds)), 0, round(sum(kind.completion for kind in kinds)))
        most = Usage(sum(kind.most_prompt for kind in kinds), 0, sum(kind.most_completion for kind in kinds))
        batches = self.config.batches.batch
        budget = Budget(self.config.budget, 0.0, self.config.budget.batch_discount if batches else 0.0)
        figures: dict[str, Any] = {
            "requests": sum(kind.requests - kind.known for kind in kinds),
            "in_ledger": sum(kind.known for kind in kinds),
            "prompt_tokens": expected.prompt,
            "completion_tokens": expected.completion,
        }
        if self.config.budget.priced:
            figures["cost"], figures["most_cost"] = budget.cost(expected), budget.worst(most.prompt, most.completion)
        for name, value in (self.reader.figures() if self.reader else {}).items():
            figures[name] = figures.get(name, 0) + value
        return figures

    def lines(self) -> list[str]:
        by_kind = [
            f"{kind.requests - kind.known} requests of kind {name} ({kind.known} more are in the ledger), "
            f"{kind.prompt:,.0f} tokens in (at most {kind.most_prompt:,}), "
            f"{kind.completion:,.0f} out (at most {kind.most_completion:,})"
            for name, kind in (self.kinds | (self.reader.kinds if self.reader else {})).items()
        ]
        figures = self.figures()
        if "cost" not in figures:
            return [*by_kind, "the cost is unknown without prices; repairs are extra; nothing was sent"]
        cost = (
            f"about {usd(figures['cost'])}, at most {usd(figures['most_cost'])} if no reply is lost; repairs of "
            "unsupported facts are extra (--max-cost limits the total); nothing was sent"
        )
        return [*by_kind, cost]
