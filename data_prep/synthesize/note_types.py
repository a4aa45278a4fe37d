"""The types of notes that can be generated, one row per type, for the prompt and the offline teacher's layout."""

from dataclasses import dataclass

from data_prep.contract.errors import UserError
from data_prep.contract.records import seeded_fraction


@dataclass(frozen=True)
class NoteType:
    name: str
    code: str  # suffix of the note's id
    headings: str  # in the order of a chart
    scope: str  # content of a case report that the note may use
    style: str  # wording and layout
    known_as: str  # regular expression for the type's names in collections of real notes


NOTE_TYPES = {
    row.name: row
    for row in (
        NoteType(
            "discharge summary",
            "ds",
            "Chief complaint, HPI, PMH, Medications, Exam, Labs, Imaging, Hospital course, Condition at discharge, "
            "Follow-up",
            "the whole course. If the patient died, stayed, or was never admitted, do not invent a discharge: describe "
            "the course up to the end of the report",
            "clipped phrases, common abbreviations (y/o, h/o, c/o, s/p, BP, CT), lists where they help",
            "discharge summary",
        ),
        NoteType(
            "history and physical",
            "hp",
            "Chief complaint, HPI, PMH, Medications, Allergies, Family history, Social history, Review of systems, "
            "Exam, Labs, Imaging, Assessment and plan",
            "everything known at admission, and nothing of the later course, later results or the outcome",
            "full history in prose, examination by system in clipped phrases",
            "history and phy",
        ),
        NoteType(
            "progress note",
            "pn",
            "Subjective, Objective, Assessment, Plan",
            "one day in the middle of the stay: the patient's complaints, the findings, the assessment and actions; "
            "not the outcome",
            "SOAP, telegraphic, one line per item",
            "progress note|soap",
        ),
        NoteType(
            "emergency department note",
            "ed",
            "Chief complaint, HPI, PMH, Medications, Exam, ED results, Impression, Disposition",
            "the first hours: arrival, examination, first results and immediate treatment",
            "terse, written under time pressure, abbreviations throughout",
            "emergency",
        ),
        NoteType(
            "radiology report",
            "rr",
            "Indication, Technique, Comparison, Findings, Impression",
            "only the imaging studies, with the complaint as their indication",
            "impersonal, one finding per line, measurements as in the report, numbered impression",
            "radiology",
        ),
        NoteType(
            "operative note",
            "op",
            "Preoperative diagnosis, Postoperative diagnosis, Procedure, Anesthesia, Findings, Description of "
            "procedure, Specimens, Complications",
            "the operation or intervention, its indication, and the specimens removed. A report without an operation "
            "has no such note",
            "procedure steps in order, passive voice, past tense",
            "surgery|operative",
        ),
        NoteType(
            "nursing note",
            "nn",
            "Reason for admission, History and allergies, Medications, Observations, Care given, Disposition",
            "what a nurse observes and does: condition, observations, medication given, and where the patient goes "
            "next; no interpretation of images or histology",
            "short plain sentences, few abbreviations",
            "nursing",
        ),
        NoteType(
            "consultation letter",
            "cl",
            "Reason for consultation, History, Findings, Opinion, Treatment and recommendations",
            "history and findings that the consulted specialty needs, and its conclusions and treatment",
            "a letter to a colleague in full sentences, without names, addresses or dates that are not in the report",
            "letter",
        ),
    )
}
ALL = "all"


def types_named(names: tuple[str, ...]) -> list[NoteType]:
    """The note types of these names; `all` gives every type. Raises UserError for an unknown name."""
    if names == (ALL,):
        return list(NOTE_TYPES.values())
    unknown = [name for name in names if name not in NOTE_TYPES]
    if unknown or not names:
        raise UserError(f"--note-types {' '.join(unknown) or '(none)'}: choose from {ALL}, {', '.join(NOTE_TYPES)}")
    return [NOTE_TYPES[name] for name in dict.fromkeys(names)]


def types_of_report(report_id: str, types: list[NoteType], count: int, seed: int) -> list[NoteType]:
    """The types of a report's notes, drawn by a hash of its id; all of them, in order, if `count` is 0."""
    if not count:
        return types
    return sorted(types, key=lambda row: seeded_fraction(seed, "note type", report_id, row.name))[:count]
