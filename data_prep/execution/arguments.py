"""Checks that all commands share: of their arguments, of the numbers in them, and of their result."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from data_prep.contract.errors import UserError

# Flags that take an address or a text; what the others take is a folder or a file.
NO_PLACES = ("--base-url", "--second-reader-url", "--proxy", "--url", "--prompt", "--instruction")


# A home folder at the beginning of an argument or of a value in it, as in --out=~/data or name=hf:~/model.
HOME = re.compile(r"(?:^|(?<=[=:]))~[\w-]*(?=/|$)")


def read_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments with ~ expanded, which a shell leaves alone in quotes.

    Raises UserError for buckets, because gs://bucket would be a folder of that name on this machine, and for names that
    are not UTF-8.
    """
    read, flag = [], ""
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument.split("=")[0]
        if any("\ud800" <= character <= "\udfff" for character in argument):
            shown = argument.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise UserError(f"{shown!r} is not UTF-8: rename the file, or set LC_ALL=C.UTF-8")
        if flag in NO_PLACES:
            read.append(argument)
            continue
        if found := re.search(r"(?:^|[=:])([a-z][a-z0-9+.-]*://\S*)", argument):
            raise UserError(
                f"{flag} {found[1]}: buckets are read as mounted folders; mount it (gcsfuse) and name the folder"
            )
        read.append(HOME.sub(lambda home: os.path.expanduser(home[0]), argument))  # noqa: PTH111, a part of a value
    return read


def check_finite(settings: Any, path: str = "") -> None:
    """Refuse NaN and infinity in every number of every command: no comparison with a limit finds NaN."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        name = f"{path}{field.name}".replace("_", "-")
        if dataclasses.is_dataclass(value):
            check_finite(value, "" if field.name in OMITTED else f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name} {value}: it must be a finite number")


# Groups of settings whose names are not part of their flags.
OMITTED = ("run", "on", "size", "plan", "teacher", "reports", "shards", "gate", "budget", "batches", "share")


def check_result(result: Any) -> None:
    """Refuse to call a run a success whose folder is finished but empty."""
    if isinstance(result, dict) and result.get("rejected") and result.get("out") == 0:
        counts = ", ".join(f"{count} {reason}" for reason, count in result["rejected"].items())
        raise UserError(f"every record was rejected ({counts}): see rejected.parquet in the output folder")
