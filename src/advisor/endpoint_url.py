"""The address of a model's server: what may be an address, and the two places that requests go to."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def checked_url(text: str) -> str:
    """The URL as it is kept: scheme and host in lower case, no slash at the end; `/v1` where it has no path.

    Raises ValueError, which never repeats the text, for another scheme than http and https, a missing host, a bad port,
    credentials, a query or a fragment.
    """
    if re.search(r"[^\x21-\x7e]", text):
        raise ValueError("it holds a space or another character that no URL has")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("it is no URL that can be read: its host or its port is malformed") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("it must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError(
            "it holds a user name or a password. Leave them out: the key belongs into an environment variable, whose "
            "name llm.endpoint_key_env gives"
        )
    if not parts.hostname or port == 0:
        raise ValueError("it has no host or no usable port, as in http://127.0.0.1:8080/v1")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("it must end with its path: leave out what follows ? or #")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/') or '/v1'}"


def native_url(endpoint: str) -> str:
    """Where a server keeps what is not of the OpenAI protocol: the URL without the `/v1` at its end."""
    return endpoint.removesuffix("/v1")


def host_of(endpoint: str) -> str:
    """Host and port, for messages."""
    return urlsplit(endpoint).netloc


def is_loopback(endpoint: str) -> bool:
    """Whether the server is on this machine, as far as the address says."""
    return (urlsplit(endpoint).hostname or "") in LOOPBACK
