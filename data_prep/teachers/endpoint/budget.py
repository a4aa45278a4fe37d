"""The cost of requests: an upper bound is reserved before a request, and replaced by the reported usage afterwards.

If no reply arrived but the request may have been charged (a timeout, a lost connection), the upper bound counts as
spent. The count is therefore never less than what the endpoint has charged.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from data_prep.contract.errors import UserError
from data_prep.teachers.endpoint.allowed_hosts import is_own_host
from data_prep.teachers.endpoint.replies import Usage

# Upper bounds of the tokens that a chat template adds per message and per prompt, which are only a few.
TOKENS_AROUND_MESSAGE, TOKENS_AROUND_PROMPT = 16, 64


@dataclass(frozen=True)
class BudgetConfig:
    max_cost: float = 0.0
    """Limit on the cost in USD of all requests in the ledger, including earlier runs; needs prices. 0 for no limit."""

    price_input: float = 0.0
    """Price in USD per million prompt tokens; 0 if unknown or free."""

    price_cached_input: float = 0.0
    """Price in USD per million prompt tokens that the endpoint had cached; 0 for the same as --price-input."""

    price_output: float = 0.0
    """Price in USD per million reply tokens; 0 if unknown or free."""

    batch_discount: float = 0.5
    """Fraction of the prices that the endpoint takes off with --batch, for the cost figures."""

    allow_unpriced: bool = False
    """Send requests although prices are 0 and the endpoint is neither on this machine nor on a private network."""

    @property
    def priced(self) -> bool:
        return self.price_input > 0 or self.price_output > 0


def check_budget(config: BudgetConfig, base_url: str) -> None:
    """Raise UserError for invalid prices and limits, and for an endpoint that may cost money without a price."""
    host = urlsplit(base_url).hostname or ""
    for name in ("max_cost", "price_input", "price_cached_input", "price_output"):
        if getattr(config, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be 0 or above")
    if not 0 <= config.batch_discount < 1:
        raise UserError(f"--batch-discount {config.batch_discount}: must be from 0 to below 1")
    if config.max_cost and not config.priced:
        raise UserError(f"--max-cost {config.max_cost:g} needs prices: set --price-input and --price-output")
    if not config.priced and not config.allow_unpriced and not is_own_host(host):
        raise UserError(
            f"{base_url} may cost money: set --price-input and --price-output in USD per million tokens, or pass "
            "--allow-unpriced"
        )


def most_prompt_tokens(messages: Sequence[Mapping[str, str]], extra: str = "") -> int:
    """An upper bound of a prompt's tokens for any tokenizer, since a token is at least one byte of UTF-8."""
    texts = [message["content"] for message in messages]
    around = TOKENS_AROUND_PROMPT + TOKENS_AROUND_MESSAGE * len(texts)
    return around + sum(len(text.encode()) for text in [*texts, extra])


@dataclass
class Account:
    """The amounts spent and reserved, in USD, and the requests that wait for room in the budget."""

    spent: float
    reserved: float = 0.0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Budget:
    """The prices of one model, and the account that it charges.

    `spent` is the cost of the ledger's earlier requests. `shares` is the budget of another model with the same account.
    """

    def __init__(self, config: BudgetConfig, spent: float = 0.0, discount: float = 0.0, shares: "Budget | None" = None):
        self.config = config
        self.account: Account = shares.account if shares else Account(spent)
        self.factor = (1 - discount) / 1e6

    @property
    def spent(self) -> float:
        return self.account.spent

    @property
    def reserved(self) -> float:
        return self.account.reserved

    def cost(self, usage: Usage) -> float:
        config = self.config
        cached_price = config.price_cached_input or config.price_input
        dollars = (usage.prompt - usage.cached) * config.price_input + usage.cached * cached_price
        return (dollars + usage.completion * config.price_output) * self.factor

    def worst(self, prompt_tokens: int, max_tokens: int) -> float:
        # The higher price, because cached tokens are not necessarily cheaper.
        price_input = max(self.config.price_input, self.config.price_cached_input)
        return (prompt_tokens * price_input + max_tokens * self.config.price_output) * self.factor

    def try_reserve(self, cost: float) -> bool:
        limit = self.config.max_cost
        if limit and self.spent + self.reserved + cost > limit:
            return False
        self.account.reserved += cost
        return True

    async def reserve(self, cost: float) -> None:
        """Reserve the upper bound of a request's cost, after waiting for room in the budget if necessary.

        Raises UserError if the budget is exhausted.
        """
        while not self.try_reserve(cost):
            if self.reserved <= 0:
                raise self.exhausted(cost)
            turn = asyncio.get_running_loop().create_future()
            self.account.waiting.append(turn)
            await turn

    def settle(self, reserved: float, spent: float) -> None:
        """Replace a reservation by the amount spent: by usage, or 0, or the whole reservation if it is unknown."""
        account = self.account
        account.reserved -= reserved
        account.spent += spent
        if account.reserved < 1e-12:  # a rounding error must not look like an open reservation
            account.reserved = 0.0
        while account.waiting:
            turn = account.waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    def exhausted(self, cost: float) -> UserError:
        return UserError(
            f"--max-cost {self.config.max_cost:g}: {self.spent:.4f} USD are spent, and the next request may cost "
            f"{cost:.4f}; replies so far are saved, raise the limit and run this again"
        )


def usd(cost: float) -> str:
    return f"{cost:.2f} USD" if cost >= 1 else f"{cost:.4f} USD"
