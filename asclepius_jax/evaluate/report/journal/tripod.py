"""A draft of the TRIPOD-LLM checklist from the figures of a report, in Markdown.

The order and the subjects of the 19 main items are those of Gallifant et al., "The TRIPOD-LLM reporting guideline for
studies using large language models", Nature Medicine 31, 2025. The words are ours, and subitems are not numbered.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.report.tables import estimate, p_value, points, share

TEMPLATE = Path(__file__).parent / "tripod.md.jinja"


def checklist(figures: Mapping[str, Any]) -> str:
    """The checklist, each entry with the part of report.json that it comes from, or left to the authors."""
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(estimate=estimate, share=share, points=points, p=p_value)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(f=figures, main=figures["main"])
