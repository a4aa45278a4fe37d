"""DiSCQ: questions that clinicians ask while reading a discharge summary, on the records of the i2b2 2010 task.

    discq/discq_questions_final.csv    id, start_index, end_index, question, reasoning, ...
    discq/relations_txt/               the texts to which `id` refers, such as record-13.txt

`reasoning` is the part of the note that raised the question. There is no reference answer. Often the note does not
contain the answer, and a good answer says so.
"""

from collections.abc import Iterator
from pathlib import Path

from asclepius_jax.evaluate.questions.datasets.annotated_spans import one_line
from asclepius_jax.evaluate.questions.datasets.tables import rows
from asclepius_jax.evaluate.records import Question
from data_prep.contract.errors import UserError
from data_prep.contract.tables import read_text_file

FILE = "discq_questions_final.csv"
COLUMNS = ("id", "question", "reasoning")


def questions(source: Path, seed: int) -> Iterator[Question]:
    table = source / FILE
    texts = {path.name: path for path in source.rglob("*.txt")} if source.is_dir() else {}
    for number, row in enumerate(rows(table, COLUMNS, f"a folder with {FILE} and the texts in relations_txt/"), 1):
        name = row["id"].strip().removesuffix(".txt")
        if f"{name}.txt" not in texts:
            raise UserError(f"{table.name}: record {number} refers to {name}, but {source} contains no {name}.txt")
        if not row["question"].strip():
            continue
        about = one_line(row["reasoning"])
        yield Question(
            id=f"discq-{number}",
            note_id=f"discq-{name}",
            task="Question Answering",
            note=read_text_file(texts[f"{name}.txt"]).strip(),
            instruction=one_line(row["question"]) + (f' (on reading "{about}")' if about else ""),
            note_type="discharge summary",
            source="DiSCQ",
            restricted=True,
        )
