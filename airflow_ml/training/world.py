"""What a pod knows of its training: how many pods there are, and how it reaches them. From its environment."""

import fcntl
import json
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from airflow_ml.lifecycle.protocol import FAILED, RESPONSE

_SIOCGIFADDR = 0x8915


@dataclass(frozen=True)
class World:
    """One pod's view.

    Attributes:
        pods: That the training can have.
        fewest: With which it goes on.
        slots: Ranks of each.
        port: Of the coordinator.
        address: Of this pod.
        key: By which the pods know each other.
        coordinates_only: Whether this pod has no ranks of its own.
        folder: Of the request, where the coordinator's pod answers.
    """

    pods: int
    fewest: int
    slots: int
    port: int
    address: str
    key: bytes
    coordinates_only: bool = False
    folder: Path | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self | None:
        """The world of this process; None where ranks are processes of one machine."""
        pods = int(environ.get("AIRFLOW_ML_PODS", "1"))
        # Said where the coordinator has a pod of its own: then one worker is another pod, too.
        index = environ.get("AIRFLOW_ML_INDEX")
        folder = environ.get("AIRFLOW_ML_FOLDER")
        if pods == 1 and index is None:
            return None
        return cls(
            pods=pods,
            fewest=int(environ["AIRFLOW_ML_MIN_PODS"]),
            slots=int(environ["AIRFLOW_ML_SLOTS"]),
            port=int(environ["AIRFLOW_ML_COORDINATOR"].rpartition(":")[2]),
            address=environ["AIRFLOW_ML_POD_IP"],
            key=Path(environ["AIRFLOW_ML_KEY"]).read_bytes().strip(),
            coordinates_only=index == "coordinator",
            folder=Path(folder) if folder else None,
        )

    @property
    def answered(self) -> int | None:
        """Exit code of the pod that has answered the request; None as long as none has."""
        try:
            text = (self.folder / RESPONSE).read_text(encoding="utf-8") if self.folder is not None else None
        except OSError:
            return None
        return None if text is None else FAILED if "error" in json.loads(text) else 0

    @property
    def elastic(self) -> bool:
        """Whether the training goes on without some of its pods."""
        return self.fewest < self.pods

    @property
    def threads(self) -> int:
        """Computing threads of a rank: the cores that this pod may use, shared out."""
        return max(1, cores() // self.slots)

    @property
    def interface(self) -> str:
        """Name of the network interface that has the pod's address."""
        for _, name in socket.if_nameindex():
            if _address_of(name) == self.address:
                return name
        return "eth0"

    @property
    def nccl(self) -> dict[str, str]:
        """Settings of NCCL, which looks at interfaces by itself."""
        return {"NCCL_SOCKET_IFNAME": self.interface}


def _address_of(interface: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface[:15].encode()))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def cores() -> int:
    """Cores that this container may use: those it may run on, and no more than its quota."""
    found = len(os.sched_getaffinity(0))
    quota = _quota()
    return found if quota is None else max(1, min(found, int(quota)))


def _quota() -> float | None:
    """Cores of the control group's quota, of either version; None without one.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    root = Path("/sys/fs/cgroup")
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None
