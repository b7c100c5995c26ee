"""Addresses of databases on other machines: TLS, with the certificate and the host's name verified.

Belongs here: whether a server is on another machine, and what libpq is told about TLS then.
Does not belong here: connections (`resources/warehouse.py`), and which databases there are
(`database_addresses.py`).
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

SAFE_SSLMODE = "verify-full"
"""The only mode in which a certificate that somebody else holds for another host is refused."""


def verified(url: str, *, weak_allowed: bool) -> str:
    """The address; to another machine with TLS, and with the certificate and the host's name verified.

    Raises `ValueError` if it asks for less and `weak_allowed` is false.
    """
    if not _on_another_machine(url):
        return url
    given = parse_qs(url.partition("?")[2])
    if any(mode != SAFE_SSLMODE for mode in given.get("sslmode", ())) and not weak_allowed:
        raise ValueError(
            f"is an address on another machine with an sslmode weaker than {SAFE_SSLMODE}; if something else "
            "encrypts that connection, set MEDSCORE_DATABASE_INSECURE=true"
        )
    added = {} if "sslmode" in given else {"sslmode": SAFE_SSLMODE}
    if given.get("sslmode", [SAFE_SSLMODE]) == [SAFE_SSLMODE] and not _roots_are_named(given):
        added["sslrootcert"] = _trusted_roots()
    return f"{url}{'&' if '?' in url else '?'}{urlencode(added)}" if added else url


def _roots_are_named(given: Mapping[str, Any]) -> bool:
    """Whether libpq finds root certificates that somebody chose for it."""
    return (
        "sslrootcert" in given
        or bool(os.environ.get("PGSSLROOTCERT"))
        or Path("~/.postgresql/root.crt").expanduser().exists()
    )


def _trusted_roots() -> str:
    """The file of the certificate authorities that this machine trusts, or else of those that browsers do.

    Not libpq's `sslrootcert=system`: the drivers' wheels bring an OpenSSL that looks for the system's roots
    where they were built.
    """
    import certifi

    return ssl.get_default_verify_paths().cafile or certifi.where()


def _on_another_machine(url: str) -> bool:
    """Whether any server that the address names, or leaves to the environment, may be elsewhere."""
    given = parse_qs(url.partition("?")[2])
    hosts = [
        host
        for name in (
            urlsplit(url).netloc.rpartition("@")[2],
            *given.get("host", ()),
            *given.get("hostaddr", ()),
        )
        for host in unquote(name).split(",")
        if host
    ]
    if not hosts:
        hosts = [os.environ[name] for name in ("PGHOST", "PGHOSTADDR") if os.environ.get(name)]
    # A service names its host in a file of libpq's.
    served = "service" in given or (not hosts and bool(os.environ.get("PGSERVICE")))
    return served or not all(map(_is_local, hosts))


def _is_local(host: str) -> bool:
    """Whether a host, with or without a port, is a folder of Unix sockets or this machine's own address."""
    if host.startswith(("/", "@")):
        return True
    name = re.sub(r":\d*$", "", host) if host.startswith("[") or host.count(":") == 1 else host
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"
