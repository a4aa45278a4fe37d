"""What requests cost: at their worst until the endpoint says what was used."""

import asyncio
from urllib.parse import urlsplit

import pytest

from data_prep.contract.errors import UserError
from data_prep.teachers.endpoint.allowed_hosts import is_own_host
from data_prep.teachers.endpoint.budget import Budget, BudgetConfig, check_budget, most_prompt_tokens
from data_prep.teachers.endpoint.replies import Usage

PRICES = BudgetConfig(max_cost=10, price_input=2, price_cached_input=1, price_output=8)


def test_prices_are_for_a_million_tokens_and_cached_ones_have_their_own():
    assert Budget(PRICES, 0).cost(Usage(1_000_000, 250_000, 500_000)) == pytest.approx(1.5 + 0.25 + 4)
    assert Budget(PRICES, 0, discount=0.5).cost(Usage(1_000_000, 0, 0)) == 1
    uncached = BudgetConfig(price_input=2, price_output=8)
    assert Budget(uncached, 0).cost(Usage(1_000_000, 1_000_000, 0)) == 2


def test_nothing_is_reserved_beyond_the_limit():
    budget = Budget(PRICES, spent=4)
    assert budget.try_reserve(5)
    assert not budget.try_reserve(1.01)
    budget.settle(5, 1)
    assert budget.try_reserve(5)
    assert budget.spent + budget.reserved == 10


def test_a_request_waits_for_others_to_settle_and_ends_the_run_when_none_is_left():
    async def go():
        budget = Budget(PRICES, spent=4)
        await budget.reserve(5)
        second = asyncio.ensure_future(budget.reserve(5))
        await asyncio.sleep(0.01)
        assert not second.done()
        budget.settle(5, 1)
        await second
        budget.settle(5, 5)
        await budget.reserve(5)

    with pytest.raises(UserError, match=r"--max-cost 10: 10\.0000 USD are spent"):
        asyncio.run(go())


def test_what_has_no_price_is_refused_where_it_may_cost_money():
    with pytest.raises(UserError, match="--allow-unpriced"):
        check_budget(BudgetConfig(), "https://api.openai.com/v1")
    check_budget(BudgetConfig(allow_unpriced=True), "https://api.openai.com/v1")
    check_budget(BudgetConfig(price_output=1), "https://api.openai.com/v1")
    check_budget(BudgetConfig(), "http://localhost:8000/v1")
    with pytest.raises(UserError, match="needs prices"):
        check_budget(BudgetConfig(max_cost=1), "http://localhost:8000/v1")
    with pytest.raises(UserError, match="--price-output -1"):
        check_budget(BudgetConfig(price_output=-1), "http://localhost/v1")
    with pytest.raises(UserError, match="--batch-discount 1"):
        check_budget(BudgetConfig(batch_discount=1), "http://localhost/v1")


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "10.1.2.3", "192.168.0.9", "[::1]", "gpu3", "vllm.internal"]
)
def test_machines_of_ones_own(host):
    assert is_own_host(urlsplit(f"http://{host}:8000/v1").hostname)


@pytest.mark.parametrize("host", ["api.openai.com", "8.8.8.8", "example.org"])
def test_machines_of_others(host):
    assert not is_own_host(urlsplit(f"https://{host}/v1").hostname)


def test_no_tokenizer_makes_more_of_a_prompt_than_its_bound(mistral_tokenizer):
    """Nor does one that has to spell every byte, as for emoji and rare scripts."""
    from data_prep.contract.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(mistral_tokenizer)
    for text in ("BP 150/90 mmHg, Hb 9.8 g/dL, T 38.9 °C", "🫀🫁" * 50, "ᚠᛇᚻ᛫ᛒᛦᚦ" * 20, "", "0123456789" * 30):
        bound = most_prompt_tokens([{"role": "user", "content": text}])
        assert len(tokenizer.encode_batch([text])[0]) < bound
