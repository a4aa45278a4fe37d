"""The teacher that a configuration names, with what it stands on."""

from pathlib import Path

from data_prep.contract.errors import UserError
from data_prep.teachers.base import Teacher, TeacherConfig
from data_prep.teachers.endpoint.ledger import Ledger
from data_prep.teachers.endpoint.meter import Meter


def make_teacher(config: TeacherConfig, ledger_path: Path, meter: Meter) -> Teacher:
    """The teacher that the configuration names. The offline one costs nothing and keeps no ledger."""
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
    """The teacher behind an endpoint, over the transport that --batch chooses."""
    # The text side must not wait for HTTP clients where the offline teacher works.
    from data_prep.teachers.endpoint.batch_api import Batches
    from data_prep.teachers.endpoint.budget import Budget
    from data_prep.teachers.endpoint.http import Live
    from data_prep.teachers.endpoint.openai import OpenAITeacher
    from data_prep.teachers.endpoint.transport import Transport

    ledger.take_over()
    meter.uncertain = ledger.uncertain()
    discount = config.budget.batch_discount if config.batches.batch else 0.0
    meter.budget = Budget(config.budget, ledger.spent(), discount)
    transport: Transport
    if config.batches.batch:
        transport = Batches(config, ledger, meter.budget, meter)
    elif waiting := ledger.open_batches():
        raise UserError(
            f"{waiting} batches of an earlier run with --batch are not read yet: run this with --batch until they "
            "are, or they are paid for twice"
        )
    else:
        transport = Live(config, ledger, meter.budget, meter)
    return OpenAITeacher(config, ledger, meter, transport)
