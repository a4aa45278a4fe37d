"""Questions that ask for a note from a conversation. The reference is the note that a clinician wrote from it.

    ACI-Bench, whole visits and notes:              dataset, encounter_id, dialogue, note
    MTS-Dialog, parts of visits and one section:    ID, section_header, section_text, dialogue

Each set is a CSV, or a folder with the splits of the set, of which the validation split is used.
"""

from collections.abc import Iterator
from pathlib import Path

from asclepius_jax.evaluate.questions.datasets.tables import files, rows
from asclepius_jax.evaluate.records import Question
from data_prep.contract.reading.source_files import stem_of

TASK = "Note Writing"
SECTIONS = {
    "ALLERGY": "allergies",
    "ASSESSMENT": "assessment",
    "CC": "chief complaint",
    "DIAGNOSIS": "diagnosis",
    "DISPOSITION": "disposition",
    "EDCOURSE": "course in the emergency department",
    "EXAM": "physical examination",
    "FAM/SOCHX": "family and social history",
    "GENHX": "history of present illness",
    "GYNHX": "gynecologic history",
    "IMAGING": "imaging",
    "IMMUNIZATIONS": "immunizations",
    "LABS": "laboratory results",
    "MEDICATIONS": "medications",
    "OTHER_HISTORY": "other history",
    "PASTMEDICALHX": "past medical history",
    "PASTSURGICAL": "past surgical history",
    "PLAN": "plan",
    "PROCEDURES": "procedures",
    "ROS": "review of systems",
}


def aci_bench(source: Path, seed: int) -> Iterator[Question]:
    columns = ("dataset", "encounter_id", "dialogue", "note")
    layout = f"ACI-Bench's CSV with the columns {', '.join(columns)}"
    for path in files(source, ("valid.csv",), layout):
        for row in rows(path, columns, layout):
            yield Question(
                id=f"{row['encounter_id']}-note",
                note_id=row["encounter_id"],
                task=TASK,
                note=row["dialogue"],
                instruction="Write the clinical note of this visit from the conversation between doctor and patient, "
                "with headings from the chief complaint to the assessment and plan.",
                reference=row["note"],
                note_type="visit dialogue",
                source=f"ACI-Bench {row['dataset']}",
            )


def mts_dialog(source: Path, seed: int) -> Iterator[Question]:
    columns = ("ID", "section_header", "section_text", "dialogue")
    layout = f"MTS-Dialog's CSV with the columns {', '.join(columns)}"
    for path in files(source, ("MTS-Dialog-ValidationSet.csv",), layout):
        for row in rows(path, columns, layout):
            header = row["section_header"].strip()
            yield Question(
                id=f"{stem_of(path)}-{row['ID']}-section",
                note_id=f"{stem_of(path)}-{row['ID']}",
                task=TASK,
                note=row["dialogue"],
                instruction=f'Write the section "{SECTIONS.get(header, header.lower())}" of the clinical note from the '
                "conversation between doctor and patient.",
                reference=row["section_text"],
                note_type=SECTIONS.get(header, header.lower()),
                source="MTS-Dialog",
            )
