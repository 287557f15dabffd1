"""Pods without an image of one's own: this machine's environment, mounted into any image of the same system.

For trying out, and for tests, on a cluster whose only node is this machine. Real clusters run real images.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from airflow_ml.compute.kubernetes.templates import BASE, Object


def host_template(*writable: str | Path) -> Object:
    """A pod template that shows this process's interpreter and import paths, read-only, at the paths they have here.

    Args:
        writable: Folders that the pods may write, the platform's base among them.
    """
    paths = [Path(path) for path in sys.path if path and Path(path).is_dir()]
    folders = dict.fromkeys(_outermost([Path(sys.prefix).resolve(), Path(sys.base_prefix), *paths]), True)
    # Outer folders are mounted before those inside of them.
    folders = dict(sorted((folders | {Path(folder): False for folder in writable}).items()))
    volumes = [{"name": f"host-{n}", "hostPath": {"path": str(folder)}} for n, folder in enumerate(folders)]
    mounts = [
        {"name": f"host-{n}", "mountPath": str(folder), "readOnly": readonly}
        for n, (folder, readonly) in enumerate(folders.items())
    ]
    own = tuple({str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)})
    shown = os.pathsep.join(str(path) for path in paths if not str(path.resolve()).startswith(own))
    container = {
        "name": BASE,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "PYTHONPATH", "value": shown}],
        "volumeMounts": mounts,
    }
    # Environments lie where only their user may look, as a rule.
    user = {"runAsUser": os.getuid()}
    return {"spec": {"containers": [container], "volumes": volumes, "securityContext": user}}


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Folders that lie in no other one of them."""
    found: list[Path] = []
    for folder in sorted({folder.resolve() for folder in folders}):
        if not any(folder.is_relative_to(other) for other in found):
            found.append(folder)
    return found
