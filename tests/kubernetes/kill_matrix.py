"""The kill matrix: ``python -m tests.kubernetes.kill_matrix``.

A task trains in two pods of a real cluster, a real Airflow waits for it, and one component is killed by signal 9 at one
moment of the job's life: six components, five moments. What counts is counted afterwards, from the cluster, from the
node's processes and from the files: a training is *lost* when its task did not succeed, or its result is not the one of
an undisturbed run; *doubled* when two pods 0 worked on it at once, or it left two results; an *orphan* is a job, a pod
or a process that goes on after its task.

The cluster is the kit's (``KUBECONFIG``, ``AIRFLOW_ML_TEST_KIT``, ``AIRFLOW_ML_TEST_IMAGE``): its one node is this
machine, so that its API server and its kubelet can be killed.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_ml import Platform
from airflow_ml.compute.kubernetes.api import ApiError, ClientApi
from airflow_ml.compute.kubernetes.names import INDEX, OWNER
from airflow_ml.lifecycle.errors import JobFailed
from airflow_ml.lifecycle.requests import FileOutput, JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.stages import runner
from airflow_ml.storage import sha256, verify
from tests.kubernetes.dags import killed
from tests.support.airflow_components import Components, components
from tests.support.kube_audit import Audit, kill_process, parent_of
from tests.support.kube_cluster import Cluster, connect, fake_compute, namespace, real_compute, until
from tests.unit.training.conftest import write_splits

VICTIMS = ("worker pod", "pod 0", "Airflow worker", "triggerer", "kubelet", "API server")
MOMENTS = ("submit", "start", "mid-epoch", "checkpoint", "finishing")
_LANES = 4
"""Trials at one time: what one of them kills for all, a triggerer, a kubelet or an API server, hits the others, too."""
_DOWN_S = 3.0
_END_S = 300.0
_LINGER_S = 30.0
_TOLERANCE = 1e-6


@dataclass
class Trial:
    """One kill.

    Attributes:
        number: Of all trials; the training's parameters differ by it, so that each one is trained.
        victim: What is killed.
        moment: When.
        repeat: From 0; pods and workers are killed in another way each time.
        took_s: From the trigger to the end of the run.
        did: What was done, with the pods' phases at that time.
        state: Of the run.
        jobs: How many jobs it had, one after the other.
        faults: What went wrong: ``lost``, ``doubled``, ``orphan``, each with why.
    """

    number: int
    victim: str
    moment: str
    repeat: int
    took_s: float = 0.0
    did: str = ""
    state: str = ""
    jobs: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        """The run's id, which is also the value of a label."""
        return f"{self.number:03d}-{self.victim}-{self.moment}".replace(" ", "-").lower()


def trials(repeats: int, only: Sequence[tuple[str, str]] = ()) -> list[Trial]:
    """Every victim at every moment, `repeats` times."""
    cells = only or [(victim, moment) for victim in VICTIMS for moment in MOMENTS]
    wanted = [(*cell, repeat) for cell in cells for repeat in range(repeats)]
    return [Trial(number, *each) for number, each in enumerate(wanted, start=1)]


class Matrix:
    """One deployment and one namespace, in which trials are made."""

    def __init__(self, airflow: Components, cluster: Cluster, base: Path, audit: Audit, stand_in: bool) -> None:
        self.stand_in = stand_in
        self.airflow = airflow
        self.cluster = cluster
        self.base = base
        self.audit = audit
        self.training_set = _training_set(base)
        self.lab = Path(os.environ["KUBECONFIG"]).parent
        self.expected: dict[str, float] = {}
        self._shared = threading.Lock()

    def undisturbed(self) -> None:
        """Train once without a kill: what every other result is compared with."""
        trial = Trial(0, "nothing", "never", 0)
        self._play(trial)
        assert not trial.faults, trial
        self.expected = self._result(trial).metrics

    def make(self, trial: Trial) -> Trial:
        """One trial, from the trigger to the counting."""
        try:
            self._play(trial)
        except Exception as error:  # the other trials are made all the same, and this one is shown as what it is
            trial.faults.append(("lost", f"{type(error).__name__}: {error}"))
        print(f"{trial.run_id}: {trial.state}, {trial.jobs} jobs, {trial.took_s:.0f} s; {trial.did} {trial.faults}")
        sys.stdout.flush()
        return trial

    def _play(self, trial: Trial) -> None:
        began = time.monotonic()
        dag_id = "killed_worker" if trial.victim == "Airflow worker" else "killed_trigger"
        conf = {"training_set": self.training_set, "params": _changes(trial)}
        if self.stand_in:
            conf["stand_in"] = str(self._folder(trial))
        self._trigger(dag_id, conf, trial)
        if trial.victim in VICTIMS:
            self._await(trial)
            phases = ", ".join(sorted(str(pod["status"].get("phase")) for pod in self._pods(trial))) or "no pods"
            how = self._kill(trial)
            trial.did = f"{how} with {phases}"
        trial.state = self._end_of(dag_id, trial)
        trial.took_s = time.monotonic() - began
        self._count(trial)

    def _trigger(self, dag_id: str, conf: dict[str, Any], trial: Trial) -> None:
        """Start the run, again where Airflow's SQLite was locked: there is no trial before there is a run."""
        for last in (False, False, True):
            try:
                self.airflow.rest.trigger(dag_id, conf, run_id=trial.run_id)
                return
            except JobFailed as error:
                if last or ": 500 " not in error.what:
                    raise
                time.sleep(2)

    def _end_of(self, dag_id: str, trial: Trial) -> str:
        """State of the run when it has ended; Airflow's API server may be slow where everything is."""
        deadline = time.monotonic() + _END_S
        while True:
            try:
                return self.airflow.rest.wait(dag_id, trial.run_id, deadline - time.monotonic())
            except OSError:
                if time.monotonic() > deadline:
                    raise

    # moments

    def _await(self, trial: Trial) -> None:
        """Wait for the moment; checkpoints are files, and are seen as soon as they are there."""
        until(lambda: self._job(trial), 120, 0.05)
        if trial.moment == "start":
            until(lambda: sum(pod["status"].get("phase") == "Running" for pod in self._pods(trial)) == 2, 120, 0.1)
            time.sleep(1)
        elif trial.moment != "submit":
            checkpoints = self._folder(trial) / "state" / "checkpoints"
            # The newest two are kept: on a busy machine the first may be gone before anybody looks.
            pattern = {
                "mid-epoch": "epoch-*.pt",
                # While it is written, by another name, or the moment after.
                "checkpoint": f"*epoch-0000[2-{killed.EPOCHS}].pt*",
                "finishing": f"epoch-{killed.EPOCHS:05d}.pt",
            }[trial.moment]
            until(lambda: any(checkpoints.glob(pattern)), 180, 0.002)
            if trial.moment == "mid-epoch":
                time.sleep(0.3)

    # kills

    def _kill(self, trial: Trial) -> str:
        if trial.victim in ("worker pod", "pod 0"):
            return self._kill_pod(trial, "0" if trial.victim == "pod 0" else "1")
        if trial.victim == "Airflow worker":
            return self._kill_worker(trial)
        with self._shared:
            if trial.victim == "triggerer":
                self.airflow.kill("triggerer")
                self.airflow.start("triggerer")
                return "killed, a new one started"
            self._kill_component("kube-apiserver" if trial.victim == "API server" else "kubelet")
            return f"killed, back after {_DOWN_S:.0f} s"

    def _kill_pod(self, trial: Trial, index: str) -> str:
        if trial.repeat % 2 and kill_process(trial.run_id, index):
            return "first process killed"
        victims = until(lambda: [pod for pod in self._pods(trial) if pod["metadata"]["labels"][INDEX] == index])
        for victim in victims:
            self.cluster.delete_pod(victim["metadata"]["name"], grace_s=0)
        return "deleted by force"

    def _kill_worker(self, trial: Trial) -> str:
        """The task's process, or that of the executor which supervises it as well."""
        owner = self._job(trial)["metadata"]["annotations"][OWNER].partition("/")[0]
        runner = until(lambda: _titled(f"airflow worker -- {owner}"))
        supervisor = parent_of(runner)
        for pid in [supervisor, runner] if trial.repeat % 2 else [runner]:
            os.kill(pid, signal.SIGKILL)
        return "supervisor and task killed" if trial.repeat % 2 else "task process killed"

    def _kill_component(self, name: str) -> None:
        os.kill(int((self.lab / "run" / f"{name}.pid").read_text().split()[0]), signal.SIGKILL)
        time.sleep(_DOWN_S)
        up = [f"{os.environ['AIRFLOW_ML_TEST_KIT']}/up"]
        subprocess.run(up, check=True, capture_output=True, timeout=180)

    # what is there

    def _job(self, trial: Trial) -> dict[str, Any] | None:
        found = self._list("Job", trial, "batch/v1")
        return found[0] if found else None

    def _pods(self, trial: Trial) -> list[dict[str, Any]]:
        return self._list("Pod", trial, "v1")

    def _list(self, kind: str, trial: Trial, version: str) -> list[dict[str, Any]]:
        """Objects of a trial; none while the server is away, which another trial may have killed."""
        try:
            found: list[dict[str, Any]] = self.cluster.list(kind, f"run_id={trial.run_id}", version)
        except ApiError as error:
            if not error.away:
                raise
            return []
        return found

    def _folder(self, trial: Trial) -> Path:
        """Of the trial's result, which is identified as the stage will identify it."""
        request = _request(self.base, "train", {"training_set": self.training_set}, _changes(trial))
        return runner.identify(request, runner.stage_of("train")).folder

    def _result(self, trial: Trial) -> JobResult:
        return JobResult.model_validate_json((self._folder(trial) / "result.json").read_text())

    # counting

    def _count(self, trial: Trial) -> None:
        trial.jobs = len(self.audit.jobs[trial.run_id])
        if trial.state != "success":
            trial.faults.append(("lost", f"the run is {trial.state}"))
        else:
            trial.faults += [("lost", why) for why in self._wrong(trial)]
        if self.audit.most[trial.run_id] > 1:
            trial.faults.append(("doubled", f"{self.audit.most[trial.run_id]} pods 0 at once"))
        deadline = time.monotonic() + _LINGER_S
        while (left := self._left(trial)) and time.monotonic() < deadline:
            time.sleep(0.5)
        trial.faults += [("orphan", name) for name in left]

    def _left(self, trial: Trial) -> list[str]:
        try:
            return self.audit.left(trial.run_id)
        except ApiError as error:
            return [f"nobody knows what: {error}"]

    def _wrong(self, trial: Trial) -> list[str]:
        """What is wrong with the result: it is the undisturbed one, and its files are whole."""
        result = self._result(trial)
        if self.stand_in:
            finished = (self._folder(trial) / "finished").read_text().splitlines()
            return [] if len(finished) == 1 else [f"it was finished by {', '.join(finished)}"]
        model = result.outputs["model"]
        assert isinstance(model, FileOutput)
        verify(model.uri, model.sha256)
        attempts = [path.name for path in self._folder(trial).glob("attempt-*")]
        found = [f"{len(attempts)} attempts are left"] if len(attempts) != 1 else []
        for name in ("best_validation_loss", "validation_roc_auc"):
            if self.expected and abs(result.metrics[name] - self.expected[name]) > _TOLERANCE:
                found.append(f"{name} is {result.metrics[name]}, undisturbed {self.expected[name]}")
        return found


def _changes(trial: Trial) -> dict[str, int]:
    """Parameters of the training: another one for each trial, and with the same result."""
    return {"patience": 100 + trial.number}


def _request(base: Path, stage: str, inputs: dict[str, str], changes: dict[str, int]) -> JobRequest:
    return JobRequest(
        stage=stage,
        model=killed.MODEL,
        platform=Platform(base=str(base)),
        window=Window.of(killed.START, killed.END),
        params={"training": changes},
        inputs=inputs,
    )


def _training_set(base: Path) -> str:
    """A training set, as its stage leaves it; returns the URI of its result."""
    folder = base / "training-set"
    write_splits(folder)
    names = {"train": "train", "validation": "validation", "test": "test", "preprocessing": "preprocessing.json"}
    path = folder / "result.json"
    request = _request(base, "training_set", {}, {})
    outputs = {name: FileOutput(uri=str(folder / file), sha256=sha256(folder / file)) for name, file in names.items()}
    result = JobResult(
        stage="training_set",
        model=killed.MODEL.name,
        fingerprint="a" * 64,
        spec_hash=request.spec_hash,
        code_version="1",
        window=request.window,
        outputs=outputs,
        uri=str(path),
    )
    path.write_text(result.model_dump_json())
    return str(path)


def _titled(title: str) -> int | None:
    """The process that calls itself so."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_text().rstrip("\0 ") == title:
                return int(entry.name)
    return None


@contextlib.contextmanager
def matrix(root: Path, stand_in: bool = False) -> Iterator[Matrix]:
    """A deployment and a namespace for trials, removed afterwards.

    Args:
        root: Of everything that is written.
        stand_in: Whether the pods only take the steps of a training, without its imports.
    """
    base = root / "base"
    base.mkdir(parents=True)
    with namespace(ClientApi(connect)) as cluster:
        # A lease that is over would end a job by itself: here only what is tested ends anything.
        compute = (fake_compute if stand_in else real_compute)(cluster.namespace, base)
        computes = {"AIRFLOW__AIRFLOW_ML__COMPUTES": json.dumps({"train": compute.model_dump(mode="json")})}
        dags = Path(__file__).parent / "dags"
        with components(root, base, dags, computes) as airflow, Audit(cluster) as audit:
            for dag_id in ("killed_worker", "killed_trigger"):
                airflow.rest.unpause(dag_id)
            made = Matrix(airflow, cluster, base, audit, stand_in)
            if not stand_in:
                made.undisturbed()
            yield made


def play(made: Matrix, wanted: Sequence[Trial]) -> list[Trial]:
    """All trials, some at a time."""
    with ThreadPoolExecutor(_LANES) as pool:
        return list(pool.map(made.make, wanted))


def table(done: Sequence[Trial]) -> str:
    """Markdown: trials and faults by victim and moment, and the sums."""
    lines = ["| killed | " + " | ".join(MOMENTS) + " | longest |", "|---|" + "---|" * (len(MOMENTS) + 1)]
    for victim in VICTIMS:
        row = [trial for trial in done if trial.victim == victim]
        cells = [_cell([trial for trial in row if trial.moment == moment]) for moment in MOMENTS]
        longest = max((trial.took_s for trial in row), default=0.0)
        lines.append(f"| {victim} | " + " | ".join(cells) + f" | {longest:.0f} s |")
    sums = Counter(kind for trial in done for kind in {kind for kind, _ in trial.faults})
    told = f"{sums['lost']} lost, {sums['doubled']} doubled, {sums['orphan']} orphans"
    return "\n".join([*lines, "", f"{len(done)} trials: {told}."])


def _cell(trials_: Sequence[Trial]) -> str:
    faults = sorted({kind for trial in trials_ for kind, _ in trial.faults})
    good = sum(not trial.faults for trial in trials_)
    return "–" if not trials_ else f"{good}/{len(trials_)}" + (f" ({', '.join(faults)})" if faults else "")


def _cell_of(text: str) -> tuple[str, str]:
    victim, _, moment = text.partition(":")
    if victim not in VICTIMS or moment not in MOMENTS:
        raise SystemExit(f"no cell {text!r}: give one of {', '.join(VICTIMS)}, and one of {', '.join(MOMENTS)}")
    return victim, moment


def main() -> int:
    """Make the trials, and print the table; 1 when anything went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2, help="trials of each cell")
    parser.add_argument("--cell", action="append", default=[], metavar="VICTIM:MOMENT", help="only this one")
    parser.add_argument("--stand-in", action="store_true", help="pods that only take the steps of a training")
    parser.add_argument("--out", type=Path, help="JSON of all trials")
    given = parser.parse_args()
    wanted = trials(given.repeats, [_cell_of(text) for text in given.cell])
    with tempfile.TemporaryDirectory(prefix="airflow-ml-kills-") as root, matrix(Path(root), given.stand_in) as made:
        done = play(made, wanted)
    if given.out:
        given.out.write_text(json.dumps([vars(trial) for trial in done], indent=1))
    print(table(done))
    return 1 if any(trial.faults for trial in done) else 0


if __name__ == "__main__":
    sys.exit(main())
