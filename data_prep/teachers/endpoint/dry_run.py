"""What a stage would ask and cost: a teacher that counts requests and sends none.

What the ledger has an answer to is answered and free. For the rest, how many tokens is known from the ledger where it
holds requests of the kind, from a tokenizer where one is given, and from the rule of thumb below where neither is.
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

# English is about four bytes a token; numbers and abbreviations make it less.
TOKENS_PER_BYTE = 0.3
# Tokens of a usual reply; of a kind that is not here, half of what is allowed.
USUAL_TOKENS = {"note": 600, "question": 40, "answer": 150}
# How many of a kind in the ledger are looked at.
SAMPLE = 200

# Stands for a reply that was never asked for: no rule rejects it, and the prompts that quote it are known by it.
PLACEHOLDER = (
    "Here stands in due course the text that the model will write, in so many words that no rule about length rejects "
    "it, and with nothing in it that could be checked against anything else."
)


@dataclass
class Kind:
    """Requests of one kind: how many, and their tokens as expected and at most."""

    requests: int = 0
    known: int = 0  # answered by the ledger
    prompt: float = 0.0
    completion: float = 0.0
    most_prompt: int = 0
    most_completion: int = 0


@dataclass(frozen=True)
class Habit:
    """What requests of a kind have used so far."""

    tokens_per_byte: float
    completion: float


@dataclass
class Counting:
    """A `Teacher` that counts; see `lines` for what it found."""

    config: TeacherConfig
    path: Path
    name: str = "openai"
    kinds: dict[str, Kind] = field(default_factory=dict)
    habits: dict[str, Habit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.path) if self.path.exists() else None
        self.tokenizer: Any = None
        if self.config.tokenizer:
            from data_prep.contract.hub import SMALL_FILES, local_folder
            from data_prep.contract.tokenizer import load_tokenizer

            self.tokenizer = load_tokenizer(local_folder(self.config.tokenizer, SMALL_FILES))

    async def close(self) -> None:
        """Nothing is on its way."""

    async def ask(self, request: Request) -> Reply:
        kind = self.kinds.setdefault(request.kind, Kind())
        kind.requests += 1
        named = identity(self.config, request, self.config.max_tokens)
        raw = self.ledger.response(request_key(named)) if self.ledger else None
        if raw is not None and (reply := read_response(raw, self.config.model)).finish_reason != "error":
            kind.known += 1
            return reply
        habit = self._habit(request.kind)
        replies_inside = sum(message["content"].count(PLACEHOLDER) for message in request.messages)
        kind.prompt += self._tokens(request.messages, habit) + replies_inside * habit.completion
        kind.completion += habit.completion
        # A reply that is cut is asked for once more, with twice the room; what it answers may be as long as allowed.
        inside = replies_inside * 2 * self.config.max_tokens
        kind.most_prompt += 2 * (most_prompt_tokens(request.messages) + inside)
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
        """From what the ledger holds of this kind."""
        sample = self.ledger.answered(kind, SAMPLE) if self.ledger else ()
        used = [(json.loads(request), usage) for request, raw in sample if (usage := read_usage(raw))]
        if not used:
            return None
        size = sum(len(message["content"].encode()) for request, _ in used for message in request["messages"])
        prompt, completion = sum(usage.prompt for _, usage in used), sum(usage.completion for _, usage in used)
        return Habit(prompt / max(size, 1), completion / len(used))

    def figures(self) -> dict[str, Any]:
        """All kinds together, costs in USD; no costs where there are no prices."""
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
        return figures

    def lines(self) -> list[str]:
        for_each = [
            f"{kind.requests - kind.known} requests of kind {name} ({kind.known} more are in the ledger), "
            f"{kind.prompt:,.0f} tokens in (at most {kind.most_prompt:,}), "
            f"{kind.completion:,.0f} out (at most {kind.most_completion:,})"
            for name, kind in self.kinds.items()
        ]
        figures = self.figures()
        if "cost" not in figures:
            return [*for_each, "no prices are given, so no cost is known; repairs come on top; nothing was sent"]
        cost = (
            f"about {usd(figures['cost'])}, at most {usd(figures['most_cost'])} if no reply is lost; repairs of what a "
            "source does not support come on top (--max-cost bounds all); nothing was sent"
        )
        return [*for_each, cost]
