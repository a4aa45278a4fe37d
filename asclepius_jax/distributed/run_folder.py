"""The run folder of a job: all its hosts must see the same one, and the same steps in it."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from asclepius_jax.distributed.job import Disagreement, current, here
from asclepius_jax.distributed.same_program import from_first, problems_of_all
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.addresses import bucket_path
from data_prep.contract.folders.holder import SILENCE_SECONDS

# Seconds within which a host must see what another one has written. The caches of a network file system hide new files
# for up to a minute, but not in a folder that was just created.
FOLDER_SECONDS = 15.0
STEP_SECONDS = 60.0
MOST_TOLD = 3


def check_shared(run_dir: Path) -> None:
    """Check that every process of the job can read and write the same run folder, which exists in process 0.

    Returns at once if there is only one process. Raises Disagreement in every process, with the hosts that see another
    folder or cannot write to it.
    """
    job = current()
    if job is None:
        return
    shared = bucket_path(run_dir) or run_dir
    meeting = shared
    if job.process_id == 0:
        meeting = shared / f".hosts-{os.urandom(6).hex()}"
        if isinstance(meeting, Path):
            meeting.mkdir()
        (meeting / "0").write_bytes(b"here")
    try:
        meeting = shared / from_first(f"folder/{shared}", meeting.name, longer=SILENCE_SECONDS)
        problem = ""
        if not seen((meeting / "0").is_file, FOLDER_SECONDS):
            problem = f"{here()} sees another folder than process 0, or none"
        else:
            try:
                (meeting / str(job.process_id)).write_bytes(b"here")
            except (OSError, UserError) as error:
                problem = f"{here()} cannot write to it ({getattr(error, 'strerror', error)})"
        refuse(shared, problems_of_all(f"folder/{shared}", problem))
        answers = [meeting / str(number) for number in range(job.processes)]
        if job.process_id == 0 and not seen(lambda: all(path.exists() for path in answers), FOLDER_SECONDS):
            missing = ", ".join(path.name for path in answers if not path.exists())
            problem = f"process 0 does not see what process {missing} has written"
        refuse(shared, problems_of_all(f"folder/{shared}/answers", problem))
    finally:
        if job.process_id == 0:
            if isinstance(meeting, Path):
                shutil.rmtree(meeting, ignore_errors=True)
            else:
                meeting.remove_all()


def refuse(run_dir: object, problems: list[str]) -> None:
    if problems:
        more = f"; and {len(problems) - MOST_TOLD} more" if problems[MOST_TOLD:] else ""
        raise Disagreement(
            f"the processes of the job do not share the folder {run_dir}: {'; '.join(problems[:MOST_TOLD])}{more}. "
            "Name a folder on a file system that all hosts share and can write to"
        )


def check_newest(name: str, steps: list[int], is_complete: Callable[[int], bool]) -> None:
    """Check that every process of the job sees the newest step that any of them sees, after a minute at the latest.

    Args:
        name: what the steps are of, for the message and unique in the job.
        steps: the steps that this process sees.
        is_complete: whether this process sees all of a step now.

    Raises Disagreement in every process, with the processes that do not see it.
    """
    job = current()
    if job is None:
        return
    newest = [int(step) for step in problems_of_all(f"newest/{name}", str(max(steps)) if steps else "")]
    problem = ""
    if newest and not seen(lambda: is_complete(max(newest)), STEP_SECONDS):
        problem = f"{here()} does not see step {max(newest)} of {name}"
    if problems := problems_of_all(f"newest/{name}/seen", problem):
        more = f"; and {len(problems) - MOST_TOLD} more" if problems[MOST_TOLD:] else ""
        raise Disagreement(
            f"{'; '.join(problems[:MOST_TOLD])}{more}, within {STEP_SECONDS:.0f} s: is the folder shared by all hosts?"
        )


def seen(look: Callable[[], bool], seconds: float) -> bool:
    """Return True as soon as `look` does, False if it does not within `seconds`."""
    until = time.monotonic() + seconds
    while not look():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
