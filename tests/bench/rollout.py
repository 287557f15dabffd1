"""Rollouts under load: five versions, one good and four bad, while 200 requests a second go through the gateway.

The clients, the gateway, the model server and the stage share the machine. A version is found out by the prediction
log, which comes to the lake every five seconds.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from airflow_ml.serving.deployment import ModelConfigFile
from airflow_ml.serving.sandbox import model_server
from airflow_ml.spec import Platform
from tests.bench.report import Report, Table
from tests.support.live_rollouts import (
    CRASHES,
    GOOD,
    KINDS,
    NAN,
    RATE,
    SHIFTED,
    SHIFTS,
    SLOW,
    STEP,
    flowing,
    model,
    roll_back,
    roll_out,
    saved_models,
)
from tests.support.rollouts import Base, crown_first, register


def run() -> Report:
    """One after the other, before one server and one gateway; the good one last, who then rules."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ModelConfigFile(folder / "serving").create()
        with model_server(folder / "serving") as server:
            target = {
                "folder": str(folder / "serving"),
                "grpc": server.grpc.removeprefix("grpc://"),
                "rest": server.rest.removeprefix("http://"),
            }
            platform = Platform(base=str(folder / "base"), serving=target)
            register(platform, saved_models(folder / "made"), SHIFTS)
            base = Base(model, platform)
            crown_first(base)
            with flowing(platform) as clients:
                time.sleep(1)
                seen = {version: roll_out(base, clients, version) for version in (CRASHES, NAN, SLOW, SHIFTED, GOOD)}
                by_command = roll_back(base, clients, GOOD)
    rows = tuple(
        (
            KINDS[version], str(found.summary["state"]).replace("_", " "), found.took_s, found.back_s, found.requests,
            found.failed.total(), found.stable_failed, found.canary, found.rescued,
        )
        for version, found in seen.items()
    )  # fmt: skip
    table = Table(
        f"Rollouts at {RATE} requests a second, one canary step of {STEP:.0%}",
        (
            "new version",
            "ends",
            "took s",
            "verdict to all traffic back s",
            "requests",
            "failed",
            "failed stable",
            "canary",
            "rescued",
        ),
        rows,
    )
    went_back = (
        f"`airflow-ml rollback` of the good one: all traffic on the old version after {by_command.back_s:.1f} s, "
        f"{by_command.failed.total()} of {by_command.requests} requests failed"
    )
    notes = (
        went_back,
        "failed: requests of any arm without an answer; failed stable: of the stable arm, by the gateway's count",
        "rescued: the canary failed, and the stable version answered",
        *(f"{KINDS[version]}: {found.summary['reason'] or 'kept'}" for version, found in seen.items()),
    )
    details = {KINDS[version]: found.summary for version, found in seen.items()}
    return Report("rollout", (table,), notes, details)
