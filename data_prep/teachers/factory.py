"""Construction of the teacher that a configuration names, with its ledger, budget and transport."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.contract.errors import UserError
from data_prep.teachers.base import Request, Teacher, TeacherConfig
from data_prep.teachers.endpoint.budget import Budget
from data_prep.teachers.endpoint.ledger import Ledger
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.endpoint.replies import Reply

if TYPE_CHECKING:
    from data_prep.teachers.endpoint.openai import OpenAITeacher


def make_teacher(
    config: TeacherConfig, ledger_path: Path, meter: Meter, reader: TeacherConfig | None = None
) -> Teacher:
    """The teacher that the configuration names. The offline teacher needs no ledger.

    `reader` is the model that answers the requests of kind "reading" instead, with the same ledger and budget.
    """
    if config.teacher == "offline" and reader is None:
        return offline_teacher()
    ledger = Ledger(ledger_path)
    try:
        asked = None if config.teacher == "offline" else endpoint_teacher(config, ledger, meter)
        teacher = asked or offline_teacher()
        if reader is None:
            return teacher
        return WithReader(teacher.name, teacher, endpoint_teacher(reader, ledger, meter, beside=asked))
    except UserError:
        ledger.close()
        raise


def offline_teacher() -> Teacher:
    from data_prep.teachers.offline.teacher import OfflineTeacher

    return OfflineTeacher()


def endpoint_teacher(
    config: TeacherConfig, ledger: Ledger, meter: Meter, beside: "OpenAITeacher | None" = None
) -> "OpenAITeacher":
    """The teacher behind an endpoint, with the transport that --batch selects.

    It charges the account of the teacher `beside` it, and keeps to its pace if both have the same endpoint. Raises
    UserError if an earlier run's batches are still open and --batch is off.
    """
    # Imported here, because the offline teacher must not wait for HTTP clients to load.
    from data_prep.teachers.endpoint.batch.batch_api import Batches
    from data_prep.teachers.endpoint.http import Live
    from data_prep.teachers.endpoint.openai import OpenAITeacher
    from data_prep.teachers.endpoint.transport import Transport

    ledger.take_over()
    meter.omitted.update(config.omit)
    meter.uncertain = ledger.uncertain()
    discount = config.budget.batch_discount if config.batches.batch else 0.0
    budget = Budget(config.budget, ledger.spent(), discount, beside.transport.budget if beside else None)
    if beside is None or budget.config.priced:
        meter.budget = budget
    transport: Transport
    if config.batches.batch:
        transport = Batches(config, ledger, budget, meter)
    elif beside is None and (waiting := ledger.open_batches()):
        raise UserError(
            f"{waiting} batches of an earlier run with --batch are still open: run this with --batch until they are "
            "read, or they are paid for twice"
        )
    else:
        same = beside is not None and beside.config.base_url == config.base_url
        pace = beside.transport.pace if beside and same and isinstance(beside.transport, Live) else None
        transport = Live(config, ledger, budget, meter, pace)
    return OpenAITeacher(config, ledger, meter, transport)


@dataclass
class WithReader:
    """A teacher, and a second reader for the requests of kind "reading"."""

    name: str
    teacher: Teacher
    reader: "OpenAITeacher"

    async def ask(self, request: Request) -> Reply:
        return await (self.reader if request.kind == "reading" else self.teacher).ask(request)

    async def close(self) -> None:
        """Wait for the replies in flight of both, before the ledger that stores them is closed."""
        from data_prep.teachers.endpoint.openai import OpenAITeacher

        senders = [each for each in (self.teacher, self.reader) if isinstance(each, OpenAITeacher)]
        await asyncio.gather(*(sender.drain() for sender in senders))
        self.reader.ledger.close()
