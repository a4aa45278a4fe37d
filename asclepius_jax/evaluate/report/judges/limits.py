"""Limitations that a reader must know before relying on the report."""

from collections.abc import Mapping
from typing import Any

SETTINGS = ("mode", "votes", "prompt", "teacher")  # of a judge, which a calibration must share


def limits(figures: Mapping[str, Any]) -> list[str]:
    """Limitations that a reader must know before relying on the page, one sentence each."""
    found: list[str] = list(figures["other_answers"])
    for judge, about in figures["judges"].items():
        warnings = [*(about["warnings"] or ()), figures["position"][judge]["warning"]]
        found += [f"{warning}." for warning in warnings if warning]
        if about["mode"] == "rules":
            found.append(
                f"{judge} judges by rule: it checks numbers, doses, dates, sides, negations, drugs, findings and the "
                "words of the reference answer, but not their combined meaning."
            )
        if about["missing"]:
            found.append(f"{about['missing']} of {about['verdicts']} votes of {judge} are missing.")
        if judge not in figures["calibration"]:
            found.append(f"{judge} was not tested on answers with known errors.")
    for judge, calibration in figures["calibration"].items():
        found += limits_of_calibration(judge, figures["judges"].get(judge), calibration)
    found += [each["warning"] for each in figures["votes"].values() if each["warning"]]
    if figures["blinding"] and figures["blinding"]["warning"]:
        found.append(figures["blinding"]["warning"])
    if not figures["raters"]:
        found.append("No clinician rated these answers.")
    if figures["units"] < figures["questions"]:
        found.append(
            f"Questions that share {figures['unit']} are not independent. Intervals and tests allow for it: "
            f"{figures['units']} {figures['unit']} tell less than {figures['questions']} independent questions would."
        )
    return found


def limits_of_calibration(judge: str, about: Mapping[str, Any] | None, calibration: Mapping[str, Any]) -> list[str]:
    """Limitations of what a judge's calibration says about its verdicts here. about: None if it judges nothing here."""
    found, tested, youden = [], calibration["about"], calibration["youden"]
    if calibration["sees_required"]:
        found.append(
            f"On planted errors {judge} has the right answer as reference or as required content, so omissions are "
            "easy to see."
        )
    if about is not None:
        other = [name for name in SETTINGS if about[name] != tested[name]]
        if about["mode"] == "listwise" and len(about["models"] or ()) != len(tested["models"] or ()):
            other.append("number of answers per list")
        if other:
            found.append(
                f"{judge} was tested on known errors with another {' and '.join(other)} than it judges with here."
            )
    if youden is None:
        found.append(f"{judge} gave no readable verdict on right or on wrong answers: its reliability is unknown.")
    elif youden < 0.5:
        found.append(
            f"{judge} tells right answers from wrong ones little better than chance (sensitivity + specificity - 1 "
            f"is {youden:.2f}): do not rely on its scores."
        )
    return found
