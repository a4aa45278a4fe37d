"""A table of figures as its command prints it, as JSON keeps it, and as the report shows it.

{"title": ..., "about": ..., "columns": [...], "table": [[...], ...], "figures": {what the cells were made of}}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import write_durably


def estimate(told: Mapping[str, Any] | None, digits: int = 2, sign: str = "") -> str:
    """A figure with its interval, from the fields of an Estimate or a Rate."""
    if told is None or told["value"] is None:
        return "not defined"
    text = f"{told['value']:{sign}.{digits}f}"
    if told.get("low") is None:
        return text
    return f"{text} [{told['low']:{sign}.{digits}f}, {told['high']:{sign}.{digits}f}]"


def share(told: Mapping[str, Any] | None) -> str:
    """The same, in percent."""
    if told is None or told["value"] is None:
        return "not defined"
    text = f"{told['value']:.1%}"
    return text if told.get("low") is None else f"{text} [{told['low']:.1%}, {told['high']:.1%}]"


def p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def keep(made: Mapping[str, Any], out: Path) -> None:
    """Write it, and print its table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out.parent.mkdir(parents=True, exist_ok=True)
    write_durably(out, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    # A model may be called [/x]: names are no markup.
    table = Table(*map(escape, made["columns"]), title=escape(made["title"]))
    for row in made["table"]:
        table.add_row(*map(escape, row))
    Console(width=150).print(table)


def read_measured(path: Path) -> dict[str, Any]:
    """UserError where it is no such table."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--measured {path}: not a JSON file that can be read ({error})") from error
    if not isinstance(told, dict) or not {"title", "about", "columns", "table"} <= told.keys():
        raise UserError(f"--measured {path}: it holds no table; name a file that asclepius evaluate wrote")
    return told
