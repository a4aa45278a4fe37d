"""The limit on cost of a run in parts, dealt out so that parts which run at the same time never exceed it together.

OUT.cost-shares.json, which all parts can reach: {"4": {"1": 2.5, "3": 0.31}}: of 4 parts, part 1 may spend 2.50 USD in
all, and part 3, which is finished, has spent 0.31. A part that has not started yet is promised an equal share.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets import objects
from data_prep.contract.folders.buckets.addresses import bucket_path
from data_prep.execution.parts import Part

FILE = ".cost-shares.json"
T = TypeVar("T")
Shares = dict[str, dict[str, float]]  # number of parts -> part -> USD


def changed(out: Path, change: Callable[[Shares], T]) -> T:
    """Change the shares of an output, on a disk or in a bucket, as if no other part did so at the same time."""
    file = bucket_path(out.with_name(f"{out.name}{FILE}"))
    if file is None:
        with shares_of(out) as shares:
            return change(shares)

    def of_object(content: bytes) -> tuple[bytes, T]:
        shares: Shares = json.loads(content or b"{}")
        result = change(shares)
        return json.dumps(shares).encode(), result

    return objects.change(file, of_object)


@contextmanager
def shares_of(out: Path) -> Iterator[Shares]:
    """The shares of an output, locked against other parts on any host, and saved at the end."""
    path = out.with_name(f"{out.name}{FILE}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            shares: Shares = json.loads(file.read() or "{}")
        except ValueError as error:
            raise UserError(
                f"{path} cannot be read ({error}): remove it, and all parts are dealt new shares"
            ) from error
        yield shares
        file.seek(0)
        file.write(json.dumps(shares))
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def take_share(most: float, part: Part, out: Path) -> float:
    """The most that a part may spend in all, in USD, when the limit for all parts is `most`.

    It gets what is neither spent nor promised to others: an equal share at first, and what finished parts have left.
    """

    def take(shares: Shares) -> float:
        own = shares.setdefault(str(part.count), {})
        others = sum(sum(each.values()) for count, each in shares.items() if count != str(part.count))
        for number in range(part.count + 1):
            if number != part.number:
                # Part 0 may not be needed at all.
                others += own.get(str(number), most / part.count if number and part.number else 0.0)
        own[str(part.number)] = max(most - others, 0.0)
        return own[str(part.number)]

    return changed(out, take)


def settle_share(spent: float, part: Part, out: Path) -> None:
    """Give back what a finished part has not spent."""

    def settle(shares: Shares) -> None:
        shares.setdefault(str(part.count), {})[str(part.number)] = spent

    changed(out, settle)
