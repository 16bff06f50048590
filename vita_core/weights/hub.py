"""Whether the model hub can be asked."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

__all__ = ["find_host"]


def find_host() -> None:
    """Raise OSError at once if the hub has no address here. huggingface_hub tries again for 23 seconds."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not getproxies():
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
