"""Several processes form one job: they connect at the start, and if one fails, all of them exit.

A process that cannot continue prints one line and exits, as does every other process of its job. Exit code 2 means
that the user must fix something (no coordinator, different settings). Exit code 3 (LOST) means that another process
is gone and that the same command, started again, resumes from the last checkpoint.
"""

import contextlib
import ctypes
import dataclasses
import functools
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
from jax._src import clusters, distributed
from jax._src.lib import _jax

from asclepius_jax.distributed.coordinator import (
    answers,
    await_coordinator,
    await_name,
    check_port,
    is_here,
    split_address,
)
from asclepius_jax.distributed.interrupts import interruptible, jax_has_started
from data_prep.contract.errors import UserError, first_line

LOST = 3
# Words in the error of a multi-host computation which show that the connection failed, not the program.
BROKEN_CONNECTION = ("Gloo", "gloo", "NCCL", "UNAVAILABLE", "Connection reset", "Socket closed")
FAREWELL_SECONDS = 2  # a process that ends the job stays this long, so that the others receive its message
LISTEN_MILLISECONDS = 3_600_000  # timeout of one request, after which the next one is sent


@dataclass(frozen=True)
class JobConfig:
    """Place of this process in its job. Not needed under Slurm or MPI, on TPU pods or on GKE, where it is detected."""

    coordinator: str = ""
    """host:port of process 0, which every other process must be able to reach."""
    processes: int = 0
    """Number of processes in the job; one per host."""
    process_id: int = -1
    """Number of this process, from 0."""
    timeout_seconds: int = 300
    """Seconds within which all processes must connect."""
    heartbeat_seconds: int = 40
    """Seconds without a heartbeat after which a process counts as lost."""


class Job:
    """Membership of this process in a running job. It exits at most once, with one line, together with the others.

    The other processes are notified through the coordinator. If the coordinator or a host disappears without notice,
    JAX's client detects it and aborts the process. That abort is turned into a one-line error too.
    """

    def __init__(self, config: JobConfig, coordinator: str, processes: int, process_id: int) -> None:
        self.config = config
        self.coordinator, self.processes, self.process_id = coordinator, processes, process_id
        self.met = False
        self.meetings = 0  # waits for all other processes so far; see same_program.meet
        self.ending = threading.Lock()
        self.listener = threading.Thread(target=self.listen, daemon=True)
        # Keep a reference: calling a C handler whose Python object was garbage-collected crashes.
        self.abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self.lost)
        self.terminate_handler = ctypes.CFUNCTYPE(None)(self.lost)

    @property
    def client(self) -> Any:
        return distributed.global_state.client

    def meet(self, local_device_ids: list[int] | None) -> None:
        """Start or reach the coordinator and wait for all processes.

        JAX's client aborts if that fails, now or later. A Python signal handler would run in the main thread, which
        an abort never returns to, so the handlers are installed with the C and C++ libraries.
        """
        ctypes.CDLL(None).signal(signal.SIGABRT, self.abort_handler)
        with contextlib.suppress(OSError, AttributeError):  # another C++ library, which prints a line before the abort
            ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE(self.terminate_handler)
        client, began = _jax.get_distributed_runtime_client, time.monotonic()
        # jax.distributed has no parameter for the callback, without which the client first logs a stack trace of 20
        # lines. JAX cannot convert its error for a callback in Python, so that std::bad_cast takes its place.
        _jax.get_distributed_runtime_client = functools.partial(client, missed_heartbeat_callback=self.lost)
        try:
            jax.distributed.initialize(
                self.coordinator,
                self.processes,
                self.process_id,
                local_device_ids=local_device_ids,
                cluster_detection_method="deactivate",
                initialization_timeout=self.config.timeout_seconds,
                heartbeat_timeout_seconds=self.config.heartbeat_seconds,
            )
        except RuntimeError as error:
            in_time = time.monotonic() - began < self.config.timeout_seconds - 1
            self.end(2, self.why_refused(error) if in_time else self.why_lost(), notify_others=False)
        finally:
            _jax.get_distributed_runtime_client = client
        jax_has_started()
        self.met = True
        self.listener.start()

    def listen(self) -> None:
        """Wait until another process ends the job, or this one has finished successfully."""
        message = None
        while message is None:
            try:
                message = self.client.blocking_key_value_get(f"asclepius/end/{self.process_id}", LISTEN_MILLISECONDS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    self.lost()
        if message:
            code, line = message.split(" ", 1)
            self.end(int(code), line, notify_others=False)

    def lost(self, *_: object) -> NoReturn:
        """Exit with an explanation when JAX's client is about to abort, because a process is gone or never came."""
        self.end(LOST if self.met else 2, self.why_lost(), notify_others=False)

    @property
    def here(self) -> str:
        return f"this is process {self.process_id} of {self.processes}"

    def why_refused(self, error: Exception) -> str:
        reason = "" if "bad_cast" in str(error) else f": {first_line(error)}"
        return (
            f"the coordinator {self.coordinator} refused this process ({self.here}{reason}): does another process have "
            "this id, or another job this address?"
        )

    def why_lost(self) -> str:
        here = self.here
        if not self.met:
            elsewhere = self.process_id == 0 and not is_here(self.coordinator)
            place = "the coordinator's host is not an address of this machine, and " if elsewhere else ""
            return (
                f"{place}the {self.processes} processes of the job did not meet at {self.coordinator} within "
                f"{self.config.timeout_seconds} s ({here}): was each started, with a unique id? See their logs"
            )
        time.sleep(0.5)  # a dying process closes its sockets one by one, and the coordinator's may not be the first
        again = "start the job again, it resumes from its last checkpoint" if _command == "train" else "start it again"
        if self.process_id and not answers(self.coordinator):
            return f"the coordinator {self.coordinator} (process 0) is gone or does not answer ({here}): {again}"
        return f"another process of the job is gone or does not answer, or JAX failed as logged above ({here}): {again}"

    def end(self, code: int, line: str, notify_others: bool = True) -> NoReturn:
        """Print the line, notify the other processes on request and exit with the code. Only the first call counts."""
        if not self.ending.acquire(blocking=False):
            time.sleep(4 * FAREWELL_SECONDS)  # longer than the first call needs
            os._exit(code)
        say(line)
        if notify_others:
            within(FAREWELL_SECONDS, lambda: self.notify(code, line))  # it hangs if the coordinator hangs
        tidy()
        if self.process_id == 0 and self.met:
            time.sleep(FAREWELL_SECONDS)  # the others receive the message through this process
        # Not sys.exit, because JAX would wait for the others at its shutdown barrier.
        os._exit(code)

    def notify(self, code: int, line: str) -> None:
        if self.process_id and not answers(self.coordinator):
            return  # the coordinator, which passes messages on, is gone
        for other in range(self.processes):
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was first
                self.client.key_value_set(f"asclepius/end/{other}", f"{code} process {self.process_id} ended: {line}")

    def fail(self, error: BaseException, explained: str | None) -> NoReturn:
        """End the job because of an error in this process. `explained` is the message for the user, or None."""
        if isinstance(error, Disagreement):
            self.end(2, str(error), notify_others=False)  # every process raises it by itself
        if isinstance(error, KeyboardInterrupt):
            self.end(130, "interrupted")
        if isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in BROKEN_CONNECTION):
            self.end(LOST, f"{self.why_lost()} ({first_line(error)})")
        if explained is None:
            traceback.print_exception(error)
            self.end(1, f"{type(error).__name__}: {first_line(error)}")
        self.end(2, explained)

    def leave(self) -> None:
        """Leave the job after success. JAX waits for the other processes at exit."""
        self.client.key_value_set(f"asclepius/end/{self.process_id}", "", allow_overwrite=True)
        self.listener.join(FAREWELL_SECONDS)


class Disagreement(UserError):
    """Raised in every process of a job, such as one whose processes would not run the same program."""


_job: Job | None = None  # the job of this process, which like JAX's client exists once per process
_command = "train"  # the subcommand that runs, for messages
_cleanups: list[Callable[[], None]] = []  # see `before_end`


def current() -> Job | None:
    """The job that this process has joined, or None if it runs alone."""
    return _job


def here() -> str:
    """The name of this process for messages, such as "process 1 on node7"; of one that runs alone, its host."""
    host = socket.gethostname()
    return host if _job is None else f"process {_job.process_id} on {host}"


def say(line: str) -> None:
    sys.stdout.flush()
    print(f"asclepius {_command}: {line}", file=sys.stderr, flush=True)


def before_end(action: Callable[[], None]) -> None:
    """Have `end`, a signal during the start or a lost process call this before they leave without an exception."""
    _cleanups.append(action)


def tidy() -> None:
    for action in _cleanups:
        within(FAREWELL_SECONDS, action)  # a file system that does not answer may be why the process ends


def within(seconds: float, action: Callable[[], None]) -> None:
    """Call something that may hang, and wait for it only so long."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(seconds)


def end(code: int, line: str) -> NoReturn:
    """End this process with one line, and with it its job, from any thread and without an exception."""
    if _job is not None:
        _job.end(code, line)
    say(line)
    tidy()
    os._exit(code)


@contextlib.contextmanager
def joined(config: JobConfig, explain: Callable[[Exception], str | None], command: str = "train") -> Iterator[None]:
    """Context in which an error ends every process of the job. A process that runs alone just raises it.

    `explain` returns the message to show for an error, or None to print its traceback.
    """
    global _command
    _command = command
    with interruptible(lambda: end(130, "interrupted")):
        join(config)
        if _job is None:
            yield
            return
        try:
            yield
            _job.leave()
        except BaseException as error:  # noqa: BLE001
            _job.fail(error, explain(error) if isinstance(error, Exception) else None)


def join(config: JobConfig) -> None:
    """Connect to the other processes of the job. Does nothing if there is only one process.

    Raises UserError for invalid flags, and if the coordinator does not answer within timeout_seconds. If the
    coordinator answers but another process never connects, prints one line and exits with code 2.
    """
    global _job
    coordinator, processes, process_id, local_device_ids = resolve(config)
    if coordinator is None or processes is None or process_id is None or processes == 1:
        return
    # gRPC would look for the coordinator behind a proxy set in the environment, but it is inside the cluster. JAX's
    # warning about proxies is therefore turned off.
    os.environ["no_grpc_proxy"] = split_address(coordinator)[0]  # noqa: SIM112, gRPC reads it in lower case
    jax.config.update("jax_check_proxy_envs", False)
    job = Job(config, coordinator, processes, process_id)
    if process_id:
        await_coordinator(coordinator, config.timeout_seconds, job.here)
    else:
        await_name(coordinator, config.timeout_seconds, job.here)
        check_port(coordinator, job.here)
    job.meet(local_device_ids)
    _job = job


def resolve(config: JobConfig) -> tuple[str | None, int | None, int | None, list[int] | None]:
    """Coordinator, number of processes, process id and local devices, from the flags or the cluster's environment."""
    check_flags(config)
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if not config.processes and tasks.isdigit():
        # SLURM_NTASKS, which JAX reads, is that of the whole allocation, also in an interactive step of one task.
        if tasks == "1":
            return None, None, None, None
        config = dataclasses.replace(config, processes=int(tasks))
    whole_host = one_process_per_host() and "JAX_LOCAL_DEVICE_IDS" not in os.environ
    local_device_ids: list[int] | None = [] if whole_host else None  # an empty list means all devices
    try:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            config.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS"),
            config.processes or None,
            config.process_id if config.process_id >= 0 else None,
            local_device_ids,
            None,
            config.timeout_seconds,
        )
    except RuntimeError as error:
        raise UserError(
            f"cannot detect the job from the environment: {first_line(error)}; set --job.coordinator, "
            "--job.processes and --job.process-id"
        ) from error
    coordinator, processes, process_id, devices = found
    if coordinator is not None and (processes is None or process_id is None):
        raise UserError(
            f"job.coordinator is {coordinator}, but no Slurm, TPU pod, Kubernetes or MPI was detected: "
            "set --job.processes and --job.process-id too"
        )
    if processes is not None and processes > 1 and coordinator is None:
        raise UserError(f"job.processes is {processes}: name the host:port of process 0 with --job.coordinator")
    return coordinator, processes, process_id, None if devices is None else list(devices)


def check_flags(config: JobConfig) -> None:
    if config.coordinator:
        host, port = split_address(config.coordinator)
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise UserError(
                f"job.coordinator {config.coordinator!r} is not an address: use host:port, such as host0:8476"
            )
    for name in ("timeout_seconds", "heartbeat_seconds"):
        if getattr(config, name) <= 0:
            raise UserError(f"job.{name} is {getattr(config, name)}: it must be above 0")
    if config.processes < 0 or config.process_id < -1:
        raise UserError(
            f"job.processes is {config.processes}, job.process_id {config.process_id}: neither can be negative"
        )
    if (config.processes > 0) != (config.process_id >= 0):
        raise UserError(
            f"job.processes is {config.processes or 'not set'}, job.process_id "
            f"{config.process_id if config.process_id >= 0 else 'not set'}: set both or neither"
        )
    if config.processes and config.process_id >= config.processes:
        raise UserError(
            f"job.process_id is {config.process_id} of {config.processes} processes: ids run from 0 to "
            f"{config.processes - 1}"
        )


def one_process_per_host() -> bool:
    """Return whether Slurm or Open MPI started one process per host.

    JAX gives every process of Slurm and Open MPI the one device with its number on the host. A process that is alone
    on its host must use all devices instead.
    """
    slurm = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as 2(x3),1
    if slurm:
        return set(re.sub(r"\(x\d+\)", "", slurm).split(",")) == {"1"}
    return os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
