"""Whether the model hub can be asked."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

__all__ = ["find_host"]

SECONDS = 5.0


def find_host() -> None:
    """Raise OSError at once if the hub cannot be reached from here. huggingface_hub tries again for 23 seconds."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not getproxies():
        hub = urlsplit(constants.ENDPOINT)
        socket.create_connection((hub.hostname, hub.port or (80 if hub.scheme == "http" else 443)), SECONDS).close()
