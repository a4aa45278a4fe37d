"""Orders in which a judge sees options and answers, balanced over votes and over questions.

A judge may favour the option or the answer that comes first. If every order occurs equally often, this favours no model
and can be measured, see `position_bias`.
"""

import itertools
from collections.abc import Hashable, Iterable

from asclepius_jax.evaluate.judge.rubric import HARMS, OMISSIONS
from data_prep.contract.records import seeded_fraction

YES, NO = "yes", "no"
# Questions to the judge, with the options of each from favourable to unfavourable.
OPTIONS: dict[str, tuple[str, ...]] = {
    "incorrect": (NO, YES),
    "harm": HARMS,
    "omitted": OMISSIONS,
    "answerable": (YES, NO),
    "recognised": (YES, NO),
}
ORDERS_OF_THREE = tuple(itertools.permutations(range(3)))


def option_orders(turn: int, vote: int = 0) -> dict[str, tuple[str, ...]]:
    """Order of the options of each question of the rubric, in one vote on an answer to a question with this turn.

    There are 48. The votes 0 and 1, 2 and 3, ... have opposite orders, and so have the turns 0 and 1, 2 and 3, ... The
    12 turns from a multiple of 12 put every option of three first equally often.
    """
    step, is_reversed = (turn // 2 + vote // 2) % 24, (turn + vote) % 2
    of_three, of_two = step % 6, step // 6
    orders = {
        "incorrect": (0, 1),
        "harm": ORDERS_OF_THREE[(of_three + of_two) % 6],
        "omitted": ORDERS_OF_THREE[of_three],
        # With the parity of `of_three`, these vary between neighbouring steps as well.
        "answerable": ((0, 1), (1, 0))[(of_two + of_three) % 2],
        "recognised": ((0, 1), (1, 0))[(of_two // 2 + of_three // 2) % 2],
    }
    return {
        name: tuple(OPTIONS[name][place] for place in (order[::-1] if is_reversed else order))
        for name, order in orders.items()
    }


def answer_orders(count: int) -> list[tuple[int, ...]]:
    """Williams' square (Aust. J. Sci. Res. A 2, 1949): orders of `count` answers, by place from 0.

    Over all orders, each answer has each position equally often and directly follows each other answer equally often:
    `count` orders if `count` is even, twice as many if it is odd.
    """
    zigzag = [0]
    for step in range(1, count):
        zigzag.append((step + 1) // 2 if step % 2 else count - step // 2)
    rows = [tuple((place + shift) % count for place in zigzag) for shift in range(count)]
    return [order for row in rows for order in ((row, row[::-1]) if count % 2 and count > 1 else (row,))]


def turns_of(names: Iterable[tuple[str, Hashable]], seed: int) -> dict[str, int]:
    """Turn of each question: its rank in a seeded order, counted separately for each group. names: (id, group).

    Ranks, unlike random numbers, give every order to equally many questions, also if there are few.
    """
    turns: dict[str, int] = {}
    reached: dict[Hashable, int] = {}
    for name, group in sorted(names, key=lambda pair: (seeded_fraction(seed, "order", pair[0]), pair[0])):
        turns[name] = reached.get(group, 0)
        reached[group] = turns[name] + 1
    return turns
