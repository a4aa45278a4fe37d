"""Checks that all commands share: of their arguments, of the numbers in them, and of their result."""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.addresses import showing_addresses
from data_prep.contract.folders.buckets.local_copies import fetch, fetch_output, sending
from data_prep.contract.folders.buckets.objects import BucketPath, is_bucket_url

# Flags that take an address or a text; what the others take is a folder or a file.
NO_PLACES = ("--base-url", "--second-reader-url", "--proxy", "--url", "--prompt", "--instruction")
# Flags for what a command writes, or continues.
OUTPUTS = ("--out", "--ledger", "--json", "--study")


# The address of a bucket as an argument or in one, as in --out=gs://bucket/data or name=hf:s3://bucket/model.
PLACE = re.compile(r"(?:^|[=:])([a-z][a-z0-9+.-]*://.*)")
# The weight of a model behind its address, as in --models s3://bucket/model=0.5.
WEIGHT = re.compile(r"=[-+.\deE]+$")
# A home folder at the beginning of an argument or of a value in it, as in --out=~/data or name=hf:~/model.
HOME = re.compile(r"(?:^|(?<=[=:]))~[\w-]*(?=/|$)")


def read_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments with ~ expanded, which a shell leaves alone in quotes.

    Raises UserError for storage that no command reads, because az://container would be a folder of that name on this
    machine, and for names that are not UTF-8.
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
        if (found := PLACE.search(argument)) and not is_bucket_url(found[1]):
            raise UserError(f"{flag} {found[1]}: only gs:// and s3:// are known; mount it and name the folder")
        read.append(HOME.sub(lambda home: os.path.expanduser(home[0]), argument))  # noqa: PTH111, a part of a value
    return read


@contextlib.contextmanager
def with_local_copies(arguments: Sequence[str], writes: bool = False) -> Iterator[list[str]]:
    """Context with the arguments in which local copies stand for what lies in buckets.

    What a command writes is sent to its bucket while it runs and at its end. `writes`: arguments without a flag name
    outputs too.
    """
    read: list[str] = []
    outputs: list[str] = []
    flag = "" if not writes else OUTPUTS[0]
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument.split("=")[0]
        found = PLACE.search(argument) if flag not in NO_PLACES else None
        if found is None:
            read.append(argument)
            continue
        weight = WEIGHT.search(argument) if flag == "--models" else None
        address, rest = (found[1], "") if weight is None else (found[1].removesuffix(weight[0]), weight[0])
        urls = [address]
        if flag in OUTPUTS:
            outputs.append(address)
        elif "*" in address:
            urls = matching(address)
        for url in urls:
            copy = fetch_output(url) if flag in OUTPUTS else fetch(url)
            read.append(f"{argument[: found.start(1)]}{copy}{rest}")
    if len(read) == len(arguments) and [*read] == [*arguments]:
        yield read
        return
    with showing_addresses(), sending(outputs):
        yield read


def matching(pattern: str) -> list[str]:
    """The addresses that a pattern such as s3://bucket/notes.part-*-of-4 matches, as a shell does it for folders."""
    path = BucketPath.parse(pattern)
    found = [str(each) for each in path.parent.glob(path.name)]
    if not found:
        raise UserError(f"{pattern} matches nothing: check the name")
    return found


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
OMITTED = ("run", "on", "size", "own", "teacher", "reports", "shards", "gate", "budget", "batches", "share", "text")


def check_result(result: Any) -> None:
    """Refuse to call a run a success whose folder is finished but empty."""
    if isinstance(result, dict) and result.get("rejected") and result.get("out") == 0:
        counts = ", ".join(f"{count} {reason}" for reason, count in result["rejected"].items())
        raise UserError(f"every record was rejected ({counts}): see rejected.parquet in the output folder")
