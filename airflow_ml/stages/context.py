"""`StageContext`: what a stage is given: the request, the tables, earlier results, a folder for files, progress."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import MissingResult, SpecChanged, SpecError
from airflow_ml.lifecycle.requests import FileOutput, JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Model, Platform
from airflow_ml.stages.workspace import sha256

log = logging.getLogger("airflow_ml.stages")


@dataclass
class StageContext:
    """One execution of a stage.

    Attributes:
        request: What was asked.
        identity: What `Stage.identify` returned; set by the runner before `run`.
        fingerprint: Identity of the result; set by the runner before `run`.
        timings: Seconds by step, filled by `timed`.
    """

    request: JobRequest
    identity: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    attempt: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    found: dict[tuple[str, str], JobResult] = field(default_factory=dict)
    """Results that `upstream` has looked up. Each stage asks for those before it, which ask again: shared along that
    way, so that the last stage looks for each of them once, and not once for every path to it."""

    @property
    def model(self) -> Model:
        """The declaration."""
        return self.request.model

    @property
    def platform(self) -> Platform:
        """Where things are."""
        return self.request.platform

    @property
    def params(self) -> dict[str, Any]:
        """Stage parameters."""
        return self.request.params

    @property
    def base(self) -> Path:
        """The base folder."""
        return Path(self.platform.base)

    @cached_property
    def window(self) -> Window:
        """The request's partitions.

        Raises:
            SpecError: The request names none, or one that reaches beyond the model's first or last partition.
        """
        if self.request.window is None:
            raise SpecError(
                "this stage needs a window", where=f"stage {self.request.stage}", remedy="pass --from and --to"
            )
        window, model = self.request.window, self.model
        if window.start < model.start or (model.end is not None and window.end > model.end):
            raise SpecError(
                f"no such partitions: {window}; {model.name} has {model.start} to {model.end or 'now'}",
                where=f"stage {self.request.stage}",
                remedy="choose days inside, or change the model's `start` or `end`",
            )
        return window

    def table(self, name: str) -> LakeTable:
        """A table of this model: raw, outcomes, features, predictions, feedback, decisions."""
        return LakeTable(self.base / "lake" / self.model.name / name)

    # results of other stages

    def upstream(self, stage: str) -> JobResult:
        """The result of an earlier stage: the one that the request names, or the one with today's fingerprint.

        Raises:
            SpecChanged: The named result was made with another spec.
            MissingResult: There is none yet.
        """
        from airflow_ml.stages.runner import find, read_result, stage_of

        uri = self.request.inputs.get(stage)
        if uri is not None:
            result = read_result(Path(uri))
            if result is None:
                raise MissingResult(
                    "the result is gone", where=uri, remedy=f"clear the run from its task of stage {stage!r}"
                )
            if result.spec_hash != self.request.spec_hash:
                raise SpecChanged(
                    f"the model's declaration changed after stage {stage!r} of this run",
                    where=uri,
                    remedy="clear the whole run, so that every stage uses the new declaration, or restore the old one",
                )
            return result
        # Only those that it takes: a version pins what is scored, and says nothing of the stages before.
        params = {name: value for name, value in self.params.items() if name in stage_of(stage).params}
        key = (stage, json.dumps(params, sort_keys=True))
        result = self.found.get(key) or find(
            self.request.model_copy(update={"stage": stage, "params": params}), self.found
        )
        if result is None:
            window = self.request.window
            dates = f" --from {window.start} --to {window.end}" if window else ""
            raise MissingResult(
                f"stage {stage!r} has no result for this window, declaration and data",
                where=f"model {self.model.name}",
                remedy=f"run it first: airflow-ml run {stage} {self.model.name}{dates}",
            )
        self.found[key] = result
        return result

    # files of this result

    @property
    def folder(self) -> Path:
        """Folder of this result: one for each fingerprint."""
        return result_folder(self.base, self.model.name, self.request.stage, self.fingerprint)

    @property
    def files(self) -> Path:
        """Folder for this attempt's files, created; they become part of the result when it is written."""
        path = self.folder / f"attempt-{self.attempt}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def state(self) -> Path:
        """Folder that attempts of the same fingerprint share: checkpoints. Created."""
        path = self.folder / "state"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def pin(self, path: Path, media_type: str = "application/octet-stream") -> FileOutput:
        """A file or folder below `files`, pinned by its hash."""
        return FileOutput(uri=str(path), sha256=sha256(path), media_type=media_type)

    # telling what happens

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Measure a step; it appears in the log and in the result's timings."""
        began = time.perf_counter()
        log.info("%s ...", step)
        try:
            yield
        finally:
            self.timings[step] = round(time.perf_counter() - began, 3)
            log.info("%s: %.1f s", step, self.timings[step])


def result_folder(base: Path, model: str, stage: str, fingerprint: str) -> Path:
    """``<base>/runs/<model>/<stage>/<leading half of the fingerprint>``."""
    return base / "runs" / model / stage / fingerprint[:32]
