"""Construction of the teacher that a configuration names, with its ledger, budget and transport."""

from pathlib import Path

from data_prep.contract.errors import UserError
from data_prep.teachers.base import Teacher, TeacherConfig
from data_prep.teachers.endpoint.ledger import Ledger
from data_prep.teachers.endpoint.meter import Meter


def make_teacher(config: TeacherConfig, ledger_path: Path, meter: Meter) -> Teacher:
    """The teacher that the configuration names. The offline teacher needs no ledger."""
    if config.teacher == "offline":
        from data_prep.teachers.offline.teacher import OfflineTeacher

        return OfflineTeacher()
    ledger = Ledger(ledger_path)
    try:
        return endpoint_teacher(config, ledger, meter)
    except UserError:
        ledger.close()
        raise


def endpoint_teacher(config: TeacherConfig, ledger: Ledger, meter: Meter) -> Teacher:
    """The teacher behind an endpoint, with the transport that --batch selects.

    Raises UserError if an earlier run's batches are still open and --batch is off.
    """
    # Imported here, because the offline teacher must not wait for HTTP clients to load.
    from data_prep.teachers.endpoint.batch.batch_api import Batches
    from data_prep.teachers.endpoint.budget import Budget
    from data_prep.teachers.endpoint.http import Live
    from data_prep.teachers.endpoint.openai import OpenAITeacher
    from data_prep.teachers.endpoint.transport import Transport

    ledger.take_over()
    meter.omitted.update(config.omit)
    meter.uncertain = ledger.uncertain()
    discount = config.budget.batch_discount if config.batches.batch else 0.0
    meter.budget = Budget(config.budget, ledger.spent(), discount)
    transport: Transport
    if config.batches.batch:
        transport = Batches(config, ledger, meter.budget, meter)
    elif waiting := ledger.open_batches():
        raise UserError(
            f"{waiting} batches of an earlier run with --batch are still open: run this with --batch until they are "
            "read, or they are paid for twice"
        )
    else:
        transport = Live(config, ledger, meter.budget, meter)
    return OpenAITeacher(config, ledger, meter, transport)
