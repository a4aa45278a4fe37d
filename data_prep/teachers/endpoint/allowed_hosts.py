"""Which endpoints are the house's own: restricted texts go to no other, and tokens cost nothing there."""

import ipaddress
from urllib.parse import urlsplit


def why_not_send(base_url: str, allowed: str) -> str:
    """Why restricted texts may not be sent there; "" where they may. `allowed` is the host that was named for them."""
    host = urlsplit(base_url).hostname or ""
    if not allowed:
        return f"use --teacher offline, or name an endpoint of your own with --allow-remote {host or 'HOST'}"
    if allowed != host:
        return f"--allow-remote names {allowed}, the endpoint is at {host}"
    if not is_of_the_house(host):
        return f"{host} is not a host of your own (localhost, a private address or a local name)"
    return ""


def is_of_the_house(host: str) -> bool:
    """Whether a host is this machine, has a private address, or a name that only a local network knows."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        # A bare name is a machine of the local network, as in http://gpu3:8000/v1.
        return "." not in host or host.endswith((".local", ".localdomain", ".internal", ".lan", ".localhost"))
