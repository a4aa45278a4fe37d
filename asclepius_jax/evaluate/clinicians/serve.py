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
    """Study folder."""

    host: str = "127.0.0.1"
    """Address to listen on. The default is reachable from this machine only."""

    port: int = 8000
    """Port to listen on; 0 takes any free port."""


def run(config: ServeConfig) -> None:
    """Serve the page until interrupted. Raises UserError for an unreadable study or an unusable address."""
    database = config.study / store.DATABASE
    with store.transaction(database):
        pass  # fails before serving if the study cannot be read
    with listening(config.host, config.port) as listener:
        host, port = listener.getsockname()[:2]
        if not is_local(host):
            print(
                f"Warning: {host} can be reached from other machines, and plain HTTP can be intercepted: use an HTTPS "
                "reverse proxy that forwards the Host header."
            )
        print(
            f"Serving {config.study} on http://{f'[{host}]' if ':' in host else host}:{port}; press Ctrl-C to stop",
            flush=True,
        )
        # No access log, because the addresses contain the secret links.
        # No log configuration, because uvicorn's would close the handlers of other code in this process.
        settings = uvicorn.Config(
            application(database), log_config=None, log_level="warning", access_log=False, server_header=False
        )
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after shutting down
            uvicorn.Server(settings).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OverflowError as error:
        raise UserError(f"--port {port}: must be between 0 and 65535") from error
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port} ({error.strerror}): choose another --port") from error


def is_local(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
