"""Packed folders as `data.path` and `data.eval_path` name them: PATH, NAME=PATH or NAME=PATH:WEIGHT."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from asclepius_jax.config.schema import DataConfig
from data_prep.contract.errors import UserError

NAMED = re.compile(r"(?P<name>[\w.-]+)=(?P<rest>.+)")
WEIGHTED = re.compile(r"(?P<path>.+):(?P<weight>\d*\.?\d+)")
MOST_DIGITS = 9  # of a weight; its fraction stays exact, and small


@dataclass(frozen=True)
class Source:
    """A packed folder with its name in reports, and its share of the rows."""

    name: str
    path: str
    weight: Fraction = Fraction(1)


def training_sources(data: DataConfig) -> list[Source]:
    """The folders of `data.path`. Their weights add up to 1. Raises UserError for unusable ones."""
    read = [read_source(text, weighted=True) for text in data.path]
    check_names("data.path", [source for source, _ in read])
    if len(read) == 1:
        return [Source(read[0][0].name, read[0][0].path)]
    for text, (source, weighted) in zip(data.path, read, strict=True):
        if not weighted:
            raise UserError(f"data.path {text} has no weight: write NAME=PATH:WEIGHT for each of several folders")
        if not source.weight:
            raise UserError(f"data.path {text}: the weight must be above 0")
    whole = sum((source.weight for source, _ in read), Fraction(0))
    return [Source(source.name, source.path, source.weight / whole) for source, _ in read]


def held_out_sources(data: DataConfig) -> list[Source]:
    """The folders of `data.eval_path`. Raises UserError for unusable names."""
    sources = [read_source(text, weighted=False)[0] for text in data.eval_path]
    check_names("data.eval_path", sources)
    return sources


def with_paths(data: DataConfig, change: Callable[[str], str]) -> DataConfig:
    """The same folders, each with the path that `change` gives for its own."""

    def changed(texts: tuple[str, ...], sources: list[Source]) -> tuple[str, ...]:
        pairs = zip(texts, sources, strict=True)
        return tuple(text.replace(source.path, change(source.path)) for text, source in pairs)

    trained, held_out = changed(data.path, training_sources(data)), changed(data.eval_path, held_out_sources(data))
    return replace(data, path=trained, eval_path=held_out)


def read_source(text: str, weighted: bool) -> tuple[Source, bool]:
    """The source that an argument names, and whether it states a weight. A text that is a folder is only a path."""
    name, path, weight = "", text, None
    if not Path(text).is_dir():
        if match := NAMED.fullmatch(path):
            name, path = match["name"], match["rest"]
        if weighted and not Path(path).is_dir() and (match := WEIGHTED.fullmatch(path)):
            path, weight = match["path"], match["weight"]
            if len(weight) > MOST_DIGITS:
                raise UserError(f"data.path {text}: use at most {MOST_DIGITS} digits for a weight")
    source = Source(name or Path(path).name, path, Fraction(weight or 1))
    return source, weight is not None


def check_names(setting: str, sources: list[Source]) -> None:
    names = [source.name for source in sources]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{setting} has two folders named {repeated[0]}: name each as NAME=PATH")
