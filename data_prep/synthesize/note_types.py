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
            "the whole story. If the patient died, stayed, or was never admitted, do not invent a discharge: tell the "
            "course up to where the report ends",
            "clipped phrases, common abbreviations (y/o, h/o, c/o, s/p, BP, CT), lists where they help",
            "discharge summary",
        ),
        NoteType(
            "history and physical",
            "hp",
            "Chief complaint, HPI, PMH, Medications, Allergies, Family history, Social history, Review of systems, "
            "Exam, Labs, Imaging, Assessment and plan",
            "what was known at admission: nothing of the later course, of later results or of the outcome",
            "full history in prose, examination by system in clipped phrases",
            "history and phy",
        ),
        NoteType(
            "progress note",
            "pn",
            "Subjective, Objective, Assessment, Plan",
            "one day in the middle of the stay: what the patient says, what is found, what is thought and done; not "
            "the outcome",
            "SOAP, telegraphic, one line an item",
            "progress note|soap",
        ),
        NoteType(
            "emergency department note",
            "ed",
            "Chief complaint, HPI, PMH, Medications, Exam, ED results, Impression, Disposition",
            "the first hours: arrival, examination, first results and what was done at once",
            "terse, written under pressure, abbreviations throughout",
            "emergency",
        ),
        NoteType(
            "radiology report",
            "rr",
            "Indication, Technique, Comparison, Findings, Impression",
            "the imaging studies alone, with the complaint as their indication",
            "impersonal, one finding a line, measurements as the report gives them; the impression numbered",
            "radiology",
        ),
        NoteType(
            "operative note",
            "op",
            "Preoperative diagnosis, Postoperative diagnosis, Procedure, Anesthesia, Findings, Description of "
            "procedure, Specimens, Complications",
            "the operation or intervention, why it was done, and what was taken out. A report without one has none",
            "procedure steps in order, passive voice, past tense",
            "surgery|operative",
        ),
        NoteType(
            "nursing note",
            "nn",
            "Reason for admission, History and allergies, Medications, Observations, Care given, Disposition",
            "what a nurse sees and does: condition, observations, medication given, how the patient is and where he "
            "or she goes; no interpretation of images or histology",
            "short plain sentences, few abbreviations",
            "nursing",
        ),
        NoteType(
            "consultation letter",
            "cl",
            "Reason for consultation, History, Findings, Opinion, Treatment and recommendations",
            "history and findings as far as the consulted specialty needs them, and what that specialty concluded and "
            "did",
            "a letter to a colleague in full sentences; no name, address or date that the report does not give",
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
