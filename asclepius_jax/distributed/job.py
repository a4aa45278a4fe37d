"""Several processes are one job: they meet, and they end together.

A process that cannot go on ends with one line and one of these codes, and every other process of its job ends too:
2 where a person must mend something (no coordinator, unlike settings), 3 (LOST) where another process is gone and the
same command, started again, continues from the last checkpoint.
"""

import contextlib
import ctypes
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

from data_prep.contract.errors import UserError, first_line

LOST = 3
# In the error of a computation over several hosts: the connection ended, not the program.
BROKEN_CONNECTION = ("Gloo", "gloo", "NCCL", "UNAVAILABLE", "Connection reset", "Socket closed")
FAREWELL_SECONDS = 2  # that a process which ends the job stays, to be heard by the others
LISTEN_MILLISECONDS = 3_600_000  # of one request; the next follows


@dataclass(frozen=True)
class JobConfig:
    """Place of this process in its job. Leave it empty under Slurm, on TPU pods, on GKE and under MPI, which say it
    themselves."""

    coordinator: str = ""
    """host:port at which process 0 listens and that every other process reaches."""
    processes: int = 0
    """Number of processes in the job; one per host."""
    process_id: int = -1
    """Number of this process, from 0."""
    timeout_seconds: int = 300
    """Seconds within which all processes must connect."""
    heartbeat_seconds: int = 40
    """Seconds of silence after which a process counts as lost."""


class Job:
    """What a process of a running job needs to end in order: at most once, in one line, together with the others.

    The others are told through the coordinator. Where the coordinator or a host is gone without a word, JAX's client
    finds out and aborts the process; that abort is turned into the line as well.
    """

    def __init__(self, config: JobConfig, coordinator: str, processes: int, process_id: int) -> None:
        self.config = config
        self.coordinator, self.processes, self.process_id = coordinator, processes, process_id
        self.met = False
        self.ending = threading.Lock()
        self.listener = threading.Thread(target=self.listen, daemon=True)
        # Kept: a C handler whose Python object is collected is a crash.
        self.abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self.lost)

    @property
    def client(self) -> Any:
        return distributed.global_state.client

    def meet(self, local_device_ids: list[int] | None) -> None:
        """Start or reach the coordinator and wait for all.

        JAX's client aborts where that fails, now or later. Python's own handlers run between instructions of the main
        thread, which an abort never reaches again, so the handler is the C library's.
        """
        ctypes.CDLL(None).signal(signal.SIGABRT, self.abort_handler)
        client = _jax.get_distributed_runtime_client
        # jax.distributed has no parameter for it: without it the client logs a stack trace of twenty lines first.
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
            raise UserError(
                f"the coordinator cannot listen on {self.coordinator} ({first_line(error)}): is the port in use? "
                "Name another with --job.coordinator"
            ) from error
        finally:
            _jax.get_distributed_runtime_client = client
        self.met = True
        self.listener.start()

    def listen(self) -> None:
        """Until another process says that the job ends, or this one says that it has ended well."""
        told = None
        while told is None:
            try:
                told = self.client.blocking_key_value_get(f"asclepius/end/{self.process_id}", LISTEN_MILLISECONDS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    self.lost()
        if told:
            code, line = told.split(" ", 1)
            self.end(int(code), line, tell=False)

    def lost(self, *_: object) -> NoReturn:
        """JAX's client is about to abort, in a thread of its own: another process is gone, or never came."""
        self.end(LOST if self.met else 2, self.why_lost(), tell=False)

    def why_lost(self) -> str:
        here = f"this is process {self.process_id} of {self.processes}"
        if not self.met:
            return (
                f"the {self.processes} processes of the job did not meet at {self.coordinator} ({here}, which waits "
                f"{self.config.timeout_seconds} s): was each started, with an id of its own? See their logs"
            )
        time.sleep(0.5)  # a process that dies closes its sockets one after another, the coordinator's not first
        again = "start the job again, it continues from its last checkpoint"
        if self.process_id and not answers(self.coordinator):
            return f"the coordinator {self.coordinator} (process 0) is gone ({here}): {again}"
        return f"another process of the job is gone or does not answer, or JAX gave up as told above ({here}): {again}"

    def end(self, code: int, line: str, tell: bool = True) -> NoReturn:
        """End this process with the line and the code; `tell`: the others of the job, too. The first call decides."""
        if not self.ending.acquire(blocking=False):
            time.sleep(4 * FAREWELL_SECONDS)  # longer than the first call needs
            os._exit(code)
        sys.stdout.flush()
        print(f"asclepius train: {line}", file=sys.stderr, flush=True)
        if tell:
            # In a thread: where the coordinator hangs, so does telling.
            telling = threading.Thread(target=self.tell, args=(code, line), daemon=True)
            telling.start()
            telling.join(FAREWELL_SECONDS)
        if self.process_id == 0 and self.met:
            time.sleep(FAREWELL_SECONDS)  # the others hear it through this process
        # Not sys.exit: JAX would wait for the others at its shutdown barrier.
        os._exit(code)

    def tell(self, code: int, line: str) -> None:
        if self.process_id and not answers(self.coordinator):
            return  # who told them is gone
        for other in range(self.processes):
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was first
                self.client.key_value_set(f"asclepius/end/{other}", f"{code} process {self.process_id} ended: {line}")

    def fail(self, error: BaseException, explained: str | None) -> NoReturn:
        """End the job for an error of this process; `explained`: in the user's words."""
        if isinstance(error, Disagreement):
            self.end(2, str(error), tell=False)  # every process ends so by itself
        if isinstance(error, KeyboardInterrupt):
            self.end(130, "interrupted")
        if isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in BROKEN_CONNECTION):
            self.end(LOST, f"{self.why_lost()} ({first_line(error)})")
        if explained is None:
            traceback.print_exception(error)
            self.end(1, f"{type(error).__name__}: {first_line(error)}")
        self.end(2, explained)

    def leave(self) -> None:
        """This process has ended well; JAX waits at its exit for the others."""
        self.client.key_value_set(f"asclepius/end/{self.process_id}", "", allow_overwrite=True)
        self.listener.join(FAREWELL_SECONDS)


class Disagreement(UserError):
    """The processes of a job would not run the same program; raised in every one of them."""


_job: Job | None = None  # of this process; JAX's client is one to a process as well


def current() -> Job | None:
    """The job that this process has joined; None where it is alone."""
    return _job


@contextlib.contextmanager
def joined(config: JobConfig, explain: Callable[[Exception], str | None]) -> Iterator[None]:
    """What runs inside is part of the job: if it fails, every process of the job ends; alone, its error is raised.

    `explain` gives an error in the user's words, or None for one that keeps its traceback.
    """
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
    """Meet the other processes of the job; alone where there is none.

    Raises UserError for flags that make no job, and where the coordinator is not there within timeout_seconds. Where
    the coordinator is there and another process never comes, the process ends with one line and code 2.
    """
    global _job
    coordinator, processes, process_id, local_device_ids = resolve(config)
    if coordinator is None or processes is None or process_id is None or processes == 1:
        return
    # gRPC would ask a proxy of the environment for the coordinator, which lies inside the cluster; JAX warns of that.
    os.environ["no_grpc_proxy"] = split_address(coordinator)[0]  # noqa: SIM112, gRPC reads it in small letters
    jax.config.update("jax_check_proxy_envs", False)
    job = Job(config, coordinator, processes, process_id)
    if process_id:
        await_coordinator(job)
    job.meet(local_device_ids)
    _job = job


def resolve(config: JobConfig) -> tuple[str | None, int | None, int | None, list[int] | None]:
    """Coordinator, processes, process id and local devices: from the flags, or from whoever started the processes."""
    check_flags(config)
    whole_host = one_process_per_host() and "JAX_LOCAL_DEVICE_IDS" not in os.environ
    local_device_ids: list[int] | None = [] if whole_host else None  # an empty list is all devices
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
        raise UserError(f"the job cannot be read from its environment: {first_line(error)}") from error
    coordinator, processes, process_id, devices = found
    if coordinator is not None and (processes is None or process_id is None):
        raise UserError(
            f"job.coordinator is {coordinator}, and neither Slurm nor a TPU pod, Kubernetes or MPI says more: "
            "give --job.processes and --job.process-id too"
        )
    if processes is not None and processes > 1 and coordinator is None:
        raise UserError(f"job.processes is {processes}: name the host:port of process 0 with --job.coordinator")
    return coordinator, processes, process_id, None if devices is None else list(devices)


def check_flags(config: JobConfig) -> None:
    if config.coordinator:
        host, port = split_address(config.coordinator)
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise UserError(f"job.coordinator {config.coordinator!r} is no address: give host:port, such as host0:8476")
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
            f"{config.process_id if config.process_id >= 0 else 'not set'}: give both or neither"
        )
    if config.processes and config.process_id >= config.processes:
        raise UserError(
            f"job.process_id is {config.process_id} of {config.processes} processes: ids run from 0 to "
            f"{config.processes - 1}"
        )


def one_process_per_host() -> bool:
    """Whether Slurm or Open MPI started one process on each host. JAX gives each process of theirs one device, by its
    number on the host; alone on the host, it must have them all."""
    slurm = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as 2(x3),1
    if slurm:
        return set(re.sub(r"\(x\d+\)", "", slurm).split(",")) == {"1"}
    return os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def split_address(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), port


def answers(address: str) -> bool:
    host, port = split_address(address)
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def await_coordinator(job: Job) -> None:
    """Process 0 may start later than this one. JAX would wait as well, and abort where nobody comes."""
    until = time.monotonic() + job.config.timeout_seconds
    while not answers(job.coordinator):
        if time.monotonic() > until:
            raise UserError(
                f"the coordinator {job.coordinator} does not answer for {job.config.timeout_seconds} s (this is "
                f"process {job.process_id} of {job.processes}): was process 0 started there, is the name right, "
                "and does the network let the port through?"
            )
        time.sleep(0.5)
