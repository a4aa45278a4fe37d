"""The institution's own endpoints: only they may receive restricted texts, and their tokens are free."""

import ipaddress
from urllib.parse import urlsplit


def why_not_send(base_url: str, allowed: str) -> str:
    """The reason why restricted texts must not be sent to `base_url`, with a remedy; "" if they may.

    `allowed` is the host given with --allow-remote.
    """
    host = urlsplit(base_url).hostname or ""
    if not allowed:
        return f"use --teacher offline, or allow an endpoint of your own with --allow-remote {host or 'HOST'}"
    if allowed != host:
        return f"--allow-remote names {allowed}, the endpoint is at {host}"
    if not is_own_host(host):
        return f"{host} is not a host of your own (localhost, a private address or a local name)"
    return ""


def is_own_host(host: str) -> bool:
    """Return True if a host is this machine, or has a private address or a name of a local network."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        # A bare name is a machine of the local network, as in http://gpu3:8000/v1.
        return "." not in host or host.endswith((".local", ".localdomain", ".internal", ".lan", ".localhost"))
