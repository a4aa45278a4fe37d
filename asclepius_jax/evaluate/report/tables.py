"""Tables of figures, which commands print, save as JSON and pass to the report.

{"title": ..., "about": ..., "columns": [...], "table": [[...], ...], "figures": {numbers behind the cells}}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import write_durably


def estimate(fields: Mapping[str, Any] | None, digits: int = 2, sign: str = "") -> str:
    """Text of a value with its interval, from the fields of an Estimate or a Rate."""
    if fields is None or fields["value"] is None:
        return "not defined"
    text = f"{fields['value']:{sign}.{digits}f}"
    if fields.get("low") is None:
        return text
    return f"{text} [{fields['low']:{sign}.{digits}f}, {fields['high']:{sign}.{digits}f}]{marked(fields)}"


def share(fields: Mapping[str, Any] | None) -> str:
    """Text of a share with its interval, in percent."""
    if fields is None or fields["value"] is None:
        return "not defined"
    text = f"{fields['value']:.1%}"
    return text if fields.get("low") is None else f"{text} [{fields['low']:.1%}, {fields['high']:.1%}]{marked(fields)}"


def points(fields: Mapping[str, Any] | None) -> str:
    """Text of a difference of shares with its interval, in percentage points."""
    if fields is None or fields["value"] is None:
        return "not defined"
    text = f"{fields['value'] * 100:+.1f}"
    if fields.get("low") is None:
        return text
    return f"{text} [{fields['low'] * 100:+.1f}, {fields['high'] * 100:+.1f}]{marked(fields)}"


def number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}"


def marked(fields: Mapping[str, Any]) -> str:
    """Reason to doubt an interval, such as few clusters, in parentheses; empty if there is none."""
    return f" ({fields['mark']})" if fields.get("mark") else ""


def p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def keep(made: Mapping[str, Any], out: Path | None) -> None:
    """Save a table as JSON, if there is a file for it, and print it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_durably(out, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    # Rich would read a model name such as [/x] as markup.
    table = Table(*map(escape, made["columns"]), title=escape(made["title"]))
    for row in made["table"]:
        table.add_row(*map(escape, row))
    Console(width=150).print(table)


def read_measured(path: Path) -> dict[str, Any]:
    """Table saved by `keep`. Raises UserError if the file contains none."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--measured {path}: cannot be read as JSON ({error})") from error
    if not isinstance(table, dict) or not {"title", "about", "columns", "table"} <= table.keys():
        raise UserError(f"--measured {path}: contains no table; name a file that asclepius evaluate wrote")
    return table
