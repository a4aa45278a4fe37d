"""The address at which the processes of a job meet: what answers there, and why a meeting fails."""

import errno
import socket
import time
from enum import Enum

from data_prep.contract.errors import UserError

ANSWER_SECONDS = 2  # within which a coordinator answers
# A client of HTTP/2, which gRPC speaks, begins with this text and a frame of settings; the server sends such a frame.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
FRAME_BYTES, SETTINGS = 9, 4
STRANGERS = 5  # consecutive answers of another program after which it does not count as about to leave


class Answer(Enum):
    """Kinds of answers from an address. The values complete "the coordinator HOST:PORT"."""

    COORDINATOR = "answers"
    NO_NAME = "has no address: the name does not resolve"
    NOTHING = "does not answer"
    SILENT = "accepts connections and then says nothing"
    STRANGER = "is another program, which does not speak gRPC"


def split_address(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), port


def answer_of(address: str) -> Answer:
    host, port = split_address(address)
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as connection:
            try:
                connection.sendall(GREETING)
                frame = b""
                while len(frame) < FRAME_BYTES and (received := connection.recv(FRAME_BYTES - len(frame))):
                    frame += received
            except TimeoutError:
                return Answer.SILENT
            except OSError:
                return Answer.STRANGER
    except socket.gaierror:
        return Answer.NO_NAME
    except OSError:
        return Answer.NOTHING
    return Answer.COORDINATOR if len(frame) == FRAME_BYTES and frame[3] == SETTINGS else Answer.STRANGER


def answers(address: str) -> bool:
    return answer_of(address) is Answer.COORDINATOR


def await_coordinator(address: str, timeout_seconds: float, here: str) -> None:
    """Wait until process 0, which may start later than this one, listens. JAX would wait too, but then abort.

    Raises UserError if it does not within the timeout, or if another program listens there.
    """
    until = time.monotonic() + timeout_seconds
    strangers = 0
    while (found := answer_of(address)) is not Answer.COORDINATOR:
        strangers = strangers + 1 if found is Answer.STRANGER else 0
        if strangers == STRANGERS:
            raise UserError(
                f"the coordinator {address} {found.value} ({here}): choose another port for --job.coordinator"
            )
        if time.monotonic() > until:
            raise UserError(
                f"the coordinator {address} {found.value}, for {timeout_seconds} s ({here}): was process 0 started "
                "there, is the name right, and is the port open?"
            )
        time.sleep(0.5)


def check_port(address: str, here: str) -> None:
    """Raise UserError if this process, which is process 0, cannot listen on the port. JAX would crash."""
    port = int(split_address(address)[1])
    try:
        listen(port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is in use by another program on this machine, and cannot be the coordinator's ({here}): "
                "choose another with --job.coordinator"
            ) from error
        raise UserError(f"the coordinator cannot listen on port {port} ({error.strerror}; {here})") from error


def listen(port: int) -> socket.socket:
    # Without SO_REUSEPORT, with which the coordinators of two jobs would share one port.
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def await_name(address: str, timeout_seconds: float, here: str) -> None:
    """Wait until the coordinator's name resolves in process 0; a new pod's name may take a moment.

    Raises UserError if it does not within the timeout.
    """
    host, until = split_address(address)[0], time.monotonic() + timeout_seconds
    while not resolves(host):
        if time.monotonic() > until:
            raise UserError(
                f"the coordinator {address} {Answer.NO_NAME.value}, for {timeout_seconds} s ({here}): is it right in "
                "--job.coordinator?"
            )
        time.sleep(0.5)


def resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror:
        return False
    return True


def is_here(address: str) -> bool:
    """Return whether the host of an address is this machine, as far as its own interfaces tell."""
    found = socket.getaddrinfo(split_address(address)[0], None, type=socket.SOCK_STREAM)
    return any(can_bind(family, str(place[0])) for family, _, _, _, place in found)


def can_bind(family: int, host: str) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
