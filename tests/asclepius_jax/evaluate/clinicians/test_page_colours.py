"""The colours of the clinicians' page can be read."""

import re
from pathlib import Path

from asclepius_jax.evaluate.clinicians import views


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    values = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_have_the_contrast_that_wcag_asks_for_at_level_aa():
    style = (Path(views.__file__).parent / "static/page.css").read_text(encoding="utf-8")
    blocks = [
        dict(re.findall(r"--([\w-]+): (#\w+);", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(blocks) == 2  # light and dark
    text = {
        **dict.fromkeys(("text", "quiet", "accent"), ("page", "sheet", "tint")),
        **dict.fromkeys(("wrong", "score-1", "score-2", "score-3", "score-4"), ("sheet",)),
        "on-accent": ("accent",),
        "on-mark": ("minor", "major", "match", "current"),
    }
    for colours in blocks:
        for front, back, least in (
            *((front, back, 4.5) for front, backs in text.items() for back in backs),
            ("control", "sheet", 3.0),
            ("control", "page", 3.0),
        ):
            light, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= least, (front, colours[front], back, colours[back])
