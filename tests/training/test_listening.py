"""On which addresses the processes of a training wait for connections."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from vita_core.training import processes

LISTENS = "0A"


@pytest.mark.parametrize(
    ("here", "stated", "interface"),
    [("2", None, "lo"), ("1", None, None), (None, None, None), ("2", "eth7", "eth7")],
    ids=["one machine", "two machines", "another launcher", "as the user says"],
)
def test_processes_of_one_machine_stay_on_its_loopback_interface(
    here: str | None, stated: str | None, interface: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in (("LOCAL_WORLD_SIZE", here), ("GLOO_SOCKET_IFNAME", stated), ("NCCL_SOCKET_IFNAME", stated)):
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)
    processes._stay_here()
    assert {os.environ.get(f"{name}_SOCKET_IFNAME") for name in ("GLOO", "NCCL")} == {interface}


def listening(pid: int) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses on which a process waits for connections."""
    own = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    for family, table in ((4, "tcp"), (6, "tcp6")):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = row.split()
            if columns[3] == LISTENS and f"socket:[{columns[9]}]" in own:
                words = bytes.fromhex(columns[1].partition(":")[0])
                packed = b"".join(
                    words[at : at + 4][::-1] for at in range(0, len(words), 4)
                )  # each word is little-endian
                yield ipaddress.IPv4Address(packed) if family == 4 else ipaddress.IPv6Address(packed)


@pytest.mark.extras
def test_own_sockets_are_seen() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        assert ipaddress.IPv4Address("127.0.0.1") in {*listening(os.getpid())}


@pytest.mark.extras
def test_a_training_in_two_processes_listens_on_loopback_alone(
    golden: Path, tiny_llm: Path, captioned: Path, tmp_path: Path
) -> None:
    """But the launcher does not: docs/security.md says so."""
    stage = {"name": "align", "train": {"projector": "full"}, "data": "captions", "steps": 3, "batch_size": 4,
             "learning_rate": 1e-2, "prompt": "plain"}  # fmt: skip
    config = {"tower": {"weights": str(golden / "clip")}, "llm": {"weights": str(tiny_llm)}, "device": "cpu",
              "data": {"captions": {"path": str(captioned)}}, "training": {"stages": [stage]}}  # fmt: skip
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "vita_core.training"]
    with subprocess.Popen(
        [*command, str(tmp_path / "two.yaml"), "--out", str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as launcher:
        workers, launchers = set(), set()
        while launcher.poll() is None:
            try:
                launchers |= {*listening(launcher.pid)}
                for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
                    workers |= {*listening(int(pid))}
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            time.sleep(0.2)
    assert launcher.returncode == 0
    assert workers == {ipaddress.IPv4Address("127.0.0.1")}
    assert launchers == {ipaddress.IPv6Address("::")}
