"""What requests cost: reserved at their worst before they are sent, settled by the endpoint's own usage afterwards.

A request that may have been paid for though no reply came (a timeout, a cut connection) stays at its worst. So what is
spent, by this count, is never less than what the endpoint has charged.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from data_prep.contract.errors import UserError
from data_prep.teachers.endpoint.allowed_hosts import is_of_the_house
from data_prep.teachers.endpoint.replies import Usage

# What a chat template puts around a message, and around all of them, is a handful of tokens; these are more.
TOKENS_AROUND_MESSAGE, TOKENS_AROUND_PROMPT = 16, 64


@dataclass(frozen=True)
class BudgetConfig:
    max_cost: float = 0.0
    """Most that all requests in the ledger may cost, in USD, those of earlier runs included; 0 sets no limit."""

    price_input: float = 0.0
    """USD for a million tokens of prompts; 0 where there is no price."""

    price_cached_input: float = 0.0
    """USD for a million prompt tokens that the endpoint had cached; 0 is the same as --price-input."""

    price_output: float = 0.0
    """USD for a million tokens of replies; 0 where there is no price."""

    batch_discount: float = 0.5
    """Share of the price that --batch saves."""

    allow_unpriced: bool = False
    """Ask an endpoint that is not on this machine or network though no prices are given."""

    @property
    def priced(self) -> bool:
        return self.price_input > 0 or self.price_output > 0


def check_budget(config: BudgetConfig, base_url: str) -> None:
    """Refuse to spend what nobody has named a price for."""
    host = urlsplit(base_url).hostname or ""
    for name in ("max_cost", "price_input", "price_cached_input", "price_output"):
        if getattr(config, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: it must be 0 or above")
    if not 0 <= config.batch_discount < 1:
        raise UserError(f"--batch-discount {config.batch_discount}: it is a share, from 0 to below 1")
    if config.max_cost and not config.priced:
        raise UserError(f"--max-cost {config.max_cost:g} needs prices: give --price-input and --price-output")
    if not config.priced and not config.allow_unpriced and not is_of_the_house(host):
        raise UserError(
            f"{base_url} may cost money: give --price-input and --price-output in USD for a million tokens, or "
            "--allow-unpriced"
        )


def most_prompt_tokens(messages: Sequence[Mapping[str, str]], extra: str = "") -> int:
    """More tokens than any tokenizer of today makes of a prompt: a token stands for at least one byte of UTF-8."""
    texts = [message["content"] for message in messages]
    around = TOKENS_AROUND_PROMPT + TOKENS_AROUND_MESSAGE * len(texts)
    return around + sum(len(text.encode()) for text in [*texts, extra])


class Budget:
    """What is spent and what is reserved, in USD. `spent` starts with what the ledger's earlier requests cost."""

    def __init__(self, config: BudgetConfig, spent: float, discount: float = 0.0):
        self.config, self.spent, self.reserved = config, spent, 0.0
        self.factor = (1 - discount) / 1e6
        self.waiting: deque[asyncio.Future[None]] = deque()

    def cost(self, usage: Usage) -> float:
        config = self.config
        cached_price = config.price_cached_input or config.price_input
        dollars = (usage.prompt - usage.cached) * config.price_input + usage.cached * cached_price
        return (dollars + usage.completion * config.price_output) * self.factor

    def worst(self, prompt_tokens: int, max_tokens: int) -> float:
        # The dearer price: nothing says that a cached token is the cheaper one.
        dearer = max(self.config.price_input, self.config.price_cached_input)
        return (prompt_tokens * dearer + max_tokens * self.config.price_output) * self.factor

    def try_reserve(self, cost: float) -> bool:
        limit = self.config.max_cost
        if limit and self.spent + self.reserved + cost > limit:
            return False
        self.reserved += cost
        return True

    async def reserve(self, cost: float) -> None:
        """Set aside what a request may cost, when there is room for it; UserError when there will be none."""
        while not self.try_reserve(cost):
            if self.reserved <= 0:
                raise self.exhausted(cost)
            turn = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            await turn

    def settle(self, reserved: float, spent: float) -> None:
        """A reservation ends in what was spent: by usage, nothing, or all of it where nobody knows."""
        self.reserved -= reserved
        self.spent += spent
        if self.reserved < 1e-12:  # rounding must not look like a request that is still to settle
            self.reserved = 0.0
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    def exhausted(self, cost: float) -> UserError:
        return UserError(
            f"--max-cost {self.config.max_cost:g}: {self.spent:.4f} USD are spent, and the next request may cost "
            f"{cost:.4f}; what was answered is kept, raise it and run this again"
        )


def usd(cost: float) -> str:
    return f"{cost:.2f} USD" if cost >= 1 else f"{cost:.4f} USD"
