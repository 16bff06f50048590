"""Ask the model hub whether it answers. The only part of ``vita doctor`` that opens a connection."""

from __future__ import annotations

from collections.abc import Iterator

from vita_core.diagnosing.findings import Finding, described

__all__ = ["hub"]

SECONDS = 5.0


def hub() -> Iterator[Finding]:
    """Send one request to the hub, with the settings of huggingface_hub."""
    from huggingface_hub import constants, get_session

    from vita_core.masking import masked

    place = masked(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", place, "note", "not asked: HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE to use the hub")
        return
    try:
        answer = get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:
        cure = "check the network and HTTPS_PROXY, set HF_ENDPOINT to a mirror, or copy the weights here and name their directory"
        yield Finding("hub", place, "problem", f"it cannot be reached: {masked(described(error))}", cure)
        return
    if answer.status_code < 500:
        yield Finding("hub", place, "ok", f"it answers (status {answer.status_code})")
    else:
        yield Finding("hub", place, "problem", f"it answers with status {answer.status_code}", "try again later")
