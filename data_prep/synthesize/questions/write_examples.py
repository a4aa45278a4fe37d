"""The work on one note: its questions, each with its answer in a separate request, and the follow-up turns."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data_prep.contract.errors import UserError
from data_prep.contract.prompt.cited_sentences import has_citation
from data_prep.contract.records import Example, Generation, Note, Reject, Turn, seeded_fraction
from data_prep.synthesize.filters import reason_to_reject
from data_prep.synthesize.gate import Draft, GateConfig, misquoted, pass_gate
from data_prep.synthesize.prompts import (
    ANSWER_PROMPT,
    CITED_ANSWER_PROMPT,
    CITED_FOLLOW_UP_ANSWER_PROMPT,
    FOLLOW_UP_ANSWER_PROMPT,
    FOLLOW_UP_PROMPT,
    QUESTION_PROMPT,
    answer_messages,
    follow_up_answer_messages,
    follow_up_messages,
    question_messages,
)
from data_prep.synthesize.questions.seed_instructions import SEED_INSTRUCTIONS
from data_prep.synthesize.questions.task_weights import tasks_of_note
from data_prep.teachers.base import Reply, Request, Teacher, request_seed

# Number of examples in a question prompt, and how many of them may come from the pool.
SHOWN, SHOWN_FROM_POOL = 4, 2


def shown_examples(example_id: str, task: str, pool: Sequence[str], seed: int) -> list[str]:
    """The few-shot examples of one question: up to SHOWN_FROM_POOL from the pool, the rest seed instructions."""

    def draw(texts: Sequence[str], count: int) -> list[str]:
        return sorted(texts, key=lambda text: seeded_fraction(seed, "shown", example_id, text))[:count]

    from_pool = draw(pool, SHOWN_FROM_POOL)
    return draw(SEED_INSTRUCTIONS[task], SHOWN - len(from_pool)) + from_pool


@dataclass(frozen=True)
class WriteExamples:
    """The work on one note: `per_note` questions, each with its answer and follow-up turns."""

    per_note: int
    follow_ups: int
    weights: dict[str, float]
    seed: int
    pool: dict[str, list[str]]  # task → questions of the pool; empty for seed instructions only
    pool_notes: frozenset[str]  # ids of the notes whose questions form the pool; they see seed instructions only
    gate: GateConfig
    questions_only: bool = False
    pool_name: str = ""
    why_not_send: str = ""  # why restricted notes must not be sent to this endpoint; empty if they may
    cites: bool = False  # the sentences of answers cite those of the note

    async def __call__(self, note: Note, teacher: Teacher) -> list[Example | Reject]:
        self.check_may_send(note)
        if self.cites and has_citation(note.text):
            return [Reject.of(note, "bracketed_number", "the note has numbers in brackets, which look like citations")]
        tasks = tasks_of_note(note.id, self.per_note, self.weights, self.seed)
        results: list[Example | Reject] = []
        for k, task in enumerate(tasks):
            result = await self.example(note, task, f"{note.id}-{k}", teacher)
            results += await self.conversation(result, teacher) if isinstance(result, Example) else [result]
        return results

    @property
    def citing(self) -> dict[str, str]:
        """The input of a request that asks a teacher by rule for citations."""
        return {"cite": "yes"} if self.cites else {}

    def check_may_send(self, note: Note) -> None:
        if note.restricted and self.why_not_send:
            raise UserError(f"note {note.id} is a real note and must not leave the institution: {self.why_not_send}")

    async def example(self, note: Note, task: str, example_id: str, teacher: Teacher) -> Example | Reject:
        pool = [] if note.id in self.pool_notes else self.pool.get(task, [])
        messages = question_messages(note.text, task, shown_examples(example_id, task, pool, self.seed))
        seed = request_seed(self.seed, "question", example_id)
        inputs = {"note": note.text, "task": task, **self.citing}
        reply = await teacher.ask(Request("question", example_id, messages, inputs, seed))
        question = reply.text.strip()
        example = Example(
            id=example_id,
            note_id=note.id,
            report_id=note.report_id,
            task=task,
            note=note.text,
            question=question,
            answer="",
            source=note.source,
            licence=note.licence,
            article=note.article,
            restricted=note.restricted,
            note_type=note.note_type,
            cites=self.cites,
            question_generation=generation(teacher, reply, QUESTION_PROMPT.hash, seed),
            answer_generation=Generation("", "", "", 0, ""),
        )
        broken = reason_to_reject("question", reply)
        if not broken and (quote := misquoted(question, note.text)):
            broken = "quote_not_in_note", f"question: {quote!r}"
        if broken:
            return Reject.of(example, *broken)
        return example if self.questions_only else await self.answered(example, teacher)

    async def answered(self, example: Example, teacher: Teacher) -> Example | Reject:
        seed = request_seed(self.seed, "answer", example.id)
        inputs = {"note": example.note, "task": example.task, "question": example.question, **self.citing}
        messages = answer_messages(example.note, example.question, self.cites)
        prompt_hash = CITED_ANSWER_PROMPT.hash if self.cites else ANSWER_PROMPT.hash
        reply = await teacher.ask(Request("answer", example.id, messages, inputs, seed))
        example = replace(
            example,
            answer=reply.text.strip(),
            answer_generation=generation(teacher, reply, prompt_hash, seed),
        )
        if broken := reason_to_reject("answer", reply):
            return Reject.of(example, *broken)
        passed = await pass_gate(
            Draft("answer", example.id, example.note, prompt_hash, seed, example.question, self.cites),
            reply,
            self.gate,
            teacher,
        )
        example = replace(
            example,
            answer=passed.text,
            answer_generation=passed.generation(teacher.name),
            certificate=passed.certificate,
        )
        return Reject.of(example, *passed.broken) if passed.broken else example

    async def conversation(self, example: Example, teacher: Teacher) -> list[Example | Reject]:
        """The example with its follow-up turns. A rejected turn ends the conversation and is returned as a reject."""
        if self.questions_only or not self.follow_ups:
            return [example]
        tasks = tasks_of_note(example.id, self.follow_ups, self.weights, self.seed)
        for k, task in enumerate(tasks):
            turn, broken = await self.turn(example, task, f"{example.id}.{k}", teacher)
            if broken:
                rejected = replace(example, id=f"{example.id}.{k}", follow_ups=(*example.follow_ups, turn))
                return [example, Reject.of(rejected, *broken)]
            example = replace(example, follow_ups=(*example.follow_ups, turn))
        return [example]

    async def turn(
        self, example: Example, task: str, turn_id: str, teacher: Teacher
    ) -> tuple[Turn, tuple[str, str] | None]:
        """The next turn of a conversation, and the (reason, detail) of its rejection or None."""
        history = [(example.question, example.answer), *((t.question, t.answer) for t in example.follow_ups)]
        told = json.dumps(history, ensure_ascii=False)
        inputs = {"note": example.note, "task": task, "history": told, **self.citing}
        seed = request_seed(self.seed, "follow_up", turn_id)
        messages = follow_up_messages(example.note, task, history)
        reply = await teacher.ask(Request("follow_up", turn_id, messages, inputs, seed))
        asked = generation(teacher, reply, FOLLOW_UP_PROMPT.hash, seed)
        turn = Turn(task, reply.text.strip(), "", asked, Generation("", "", "", 0, ""))
        if broken := reason_to_reject("question", reply):
            return turn, broken
        if quote := misquoted(turn.question, example.note):
            return turn, ("quote_not_in_note", f"question: {quote!r}")
        if turn.question in [question for question, _ in history]:
            return turn, ("duplicate", "asked before in this conversation")
        seed = request_seed(self.seed, "follow_up_answer", turn_id)
        messages = follow_up_answer_messages(example.note, history, turn.question, self.cites)
        prompt_hash = (CITED_FOLLOW_UP_ANSWER_PROMPT if self.cites else FOLLOW_UP_ANSWER_PROMPT).hash
        inputs |= {"question": turn.question}
        reply = await teacher.ask(Request("follow_up_answer", turn_id, messages, inputs, seed))
        answered = generation(teacher, reply, prompt_hash, seed)
        turn = replace(turn, answer=reply.text.strip(), answer_generation=answered)
        if broken := reason_to_reject("answer", reply):
            return turn, broken
        draft = Draft("answer", turn_id, example.note, prompt_hash, seed, turn.question, self.cites)
        passed = await pass_gate(draft, reply, self.gate, teacher)
        answered = passed.generation(teacher.name)
        turn = replace(turn, answer=passed.text, answer_generation=answered, certificate=passed.certificate)
        return turn, passed.broken


def generation(teacher: Teacher, reply: Reply, prompt_hash: str, seed: int) -> Generation:
    return Generation(teacher.name, reply.model, prompt_hash, seed, reply.finish_reason)
