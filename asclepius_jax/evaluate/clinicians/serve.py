"""Serve the clinicians' page.

asclepius evaluate serve --study STUDY
"""

import contextlib
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from asclepius_jax.evaluate.clinicians import store
from asclepius_jax.evaluate.clinicians.app import application
from data_prep.contract.errors import UserError


@dataclass(frozen=True)
class ServeConfig:
    study: Path
    """The folder of a study."""

    host: str = "127.0.0.1"
    """The address to listen on; the default is reached from this machine only."""

    port: int = 8000
    """0: any free one."""


def run(config: ServeConfig) -> None:
    database = config.study / store.DATABASE
    with store.transaction(database):
        pass  # a study that cannot be read is refused before anyone is let in
    with listening(config.host, config.port) as listener:
        host, port = listener.getsockname()[:2]
        if not is_local(host):
            print(
                f"Warning: {host} is reached from other machines, and plain HTTP can be read on the way: put a server "
                "that speaks HTTPS before it, and let it pass on the Host header."
            )
        print(
            f"Serving {config.study} on http://{f'[{host}]' if ':' in host else host}:{port}; Ctrl-C ends it",
            flush=True,
        )
        # No access log: the links are secrets, and they are in the addresses.
        # No log configuration: uvicorn's would close the handlers of whatever else runs in this process.
        settings = uvicorn.Config(
            application(database), log_config=None, log_level="warning", access_log=False, server_header=False
        )
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has closed, and raises it again
            uvicorn.Server(settings).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OverflowError as error:
        raise UserError(f"--port {port}: it must be from 0 to 65535") from error
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port} ({error.strerror}): choose another --port") from error


def is_local(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
