"""The loop itself: what a person would do in the UI over an autumn, done through the REST API and the command line."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from airflow_ml.examples.flights.demo.calendar import AUTUMN, Calendar, known, window
from airflow_ml.examples.flights.demo.online import predict
from airflow_ml.examples.flights.demo.rest import AirflowRest, TaskRow
from airflow_ml.examples.flights.demo.summary import StageTime, Summary, WatchedWeek, arms, auc_by_week
from airflow_ml.examples.flights.demo.tools import backfill, command
from airflow_ml.examples.flights.demo.traffic import Callers, callers
from airflow_ml.examples.flights.model import flights
from airflow_ml.examples.flights.world import World
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import JobFailed
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Model


@dataclass
class Loop:
    """One play of the loop.

    Attributes:
        rest: The Airflow that runs it.
        environment: Of the command line tools.
        base: The base folder.
        rest_address: ``host:port`` of the model server's REST API.
        calendar: The days.
        model: What is played; the flights, or a smaller declaration of them.
        say: Where progress goes.
        summary: Filled as the loop goes on.
    """

    rest: AirflowRest
    environment: Mapping[str, str]
    base: Path
    rest_address: str
    calendar: Calendar = AUTUMN
    model: Model = flights
    say: Callable[[str], None] = print
    summary: Summary = field(default_factory=Summary)

    def play(self) -> Summary:
        """Run the loop from an empty base to the nights after the retraining."""
        began = time.monotonic()
        world = World(self.base / "landing")
        days = self.calendar
        for dag_id in ("data", "training", "scoring", "monitoring", "release"):
            self.rest.unpause(f"{self.model.name}_{dag_id}")

        self._step(f"{len(days.history)} days land: schedules, and outcomes a day later")
        world.deliver(days.history)
        world.deliver_outcomes(known(days.history, self.model))
        self._run("history", "data", window(days.history))

        self._step("training, gates, release")
        training = Window.ending(known(days.history, self.model).end, self.model.training.window)
        training = Window.of(max(training.start, self.model.start), training.end)
        data = self._land(world, days.nights)
        self._run("first training", "training", window(training))

        self._step(f"{len(days.nights)} nights, by airflow backfill")
        self._nights(days.nights, data)
        scored = len(days.nights)

        self._step("labels arrive; monitoring")
        retraining = self._watch(world)
        end = days.nights.end
        if retraining:
            self._step(f"retraining {retraining}")
            after = Window.of(end + timedelta(days=1), end + timedelta(days=days.after))
            data = self._land(world, after)
            self._retraining(retraining)
            self._step(f"the next {days.after} nights")
            self._nights(after, data)
            scored += len(after)
            self._step("their labels: what the retraining was good for")
            self._monitor(world, after.end)
        nights = Window.of(days.nights.start, days.nights.start + timedelta(days=scored - 1))
        self.summary.nights_scored = self._scored(nights)
        self._finish(nights)
        self.summary.wall_s = round(time.monotonic() - began, 1)
        return self.summary

    # the steps

    def _land(self, world: World, nights: Window) -> str:
        """The nights' data arrive and are built by one run, which goes on while a model trains; returns the run."""
        world.deliver(nights)
        world.deliver_outcomes(nights.shift(-self.model.label.lag))
        return self.rest.trigger(f"{self.model.name}_data", window(nights))

    def _nights(self, nights: Window, data: str) -> None:
        """Wait for their data, then one scoring run a night."""
        self._wait(f"data of {nights}", "data", data)
        before, clock = time.monotonic(), time.time()
        backfill(self.rest, self.environment, f"{self.model.name}_scoring", nights, "--max-active-runs", "4")
        wanted = set(nights)
        seen: set[str] = set()
        while True:
            runs = [run for run in self.rest.runs(f"{self.model.name}_scoring") if _day(run) in wanted]
            for run in runs:
                if run["state"] in {"success", "failed"} and run["dag_run_id"] not in seen:
                    seen.add(run["dag_run_id"])
                    self.say(f"    night {_day(run)}  {run['state']}  ({len(seen)}/{len(nights)})")
            failed = [run["dag_run_id"] for run in runs if run["state"] == "failed"]
            if failed:
                raise JobFailed(
                    f"scoring failed: {', '.join(failed)}", where=self.rest.url, remedy="open the run in the UI"
                )
            if len(seen) == len(nights):
                break
            if time.monotonic() - before > 60 + 60 * len(nights):
                raise JobFailed(f"only {len(seen)} of {len(nights)} nights were scored in time", where=self.rest.url)
            time.sleep(2)
        rows = sum(
            LakeTable(self.base / f"lake/{self.model.name}/predictions").snapshot().rows.get(day, 0) for day in nights
        )
        self.summary.busy.append((clock, time.time()))
        self.summary.stages.append(StageTime(f"score {len(nights)} nights", round(time.monotonic() - before, 1), rows))

    def _watch(self, world: World) -> str | None:
        """Monitoring runs in order; the id of the training run that one of them started."""
        for end in self.calendar.watched:
            observed, decision = self._monitor(world, end)
            reasons = list(decision.get("reasons", []))
            self.summary.drift = {"verdict": decision.get("decision"), "window": str(observed), "reasons": reasons}
            if decision.get("decision") == "retrain":
                return str(decision["run_id"])
        return None

    def _monitor(self, world: World, end: date) -> tuple[Window, dict[str, Any]]:
        """Deliver a window's labels and run monitoring over it; what it decided."""
        observed = Window.ending(end, self.model.monitoring.window)
        observed = Window.of(max(observed.start, self.calendar.nights.start), observed.end)
        world.deliver_outcomes(observed)
        run_id = self._run(f"monitoring {observed}", "monitoring", window(observed))
        result = self.rest.result(f"{self.model.name}_monitoring", run_id, "decide_retraining")
        decision: dict[str, Any] = result.get("summary", {})
        seen = self.rest.result(f"{self.model.name}_monitoring", run_id, "monitor")
        metrics = seen.get("metrics", {})
        names = ("drifted_share", "positive_rate", "prediction_mean", "roc_auc", "log_loss")
        self.summary.watched.append(
            WatchedWeek(
                window=str(observed),
                verdict=str(decision.get("decision")),
                model_version=seen.get("summary", {}).get("model_version"),
                **{name: metrics.get(name) for name in names},
            )
        )
        self.say(f"    verdict for {observed}: {decision.get('decision')}: {'; '.join(decision.get('reasons', []))}")
        return observed, decision

    def _retraining(self, run_id: str) -> None:
        """Wait for it; from the moment when its model has passed the gates, people ask for flights."""
        dag_id = f"{self.model.name}_training"
        show = self._on_task("retraining", dag_id)
        verdict: dict[str, Any] = {}
        asking: list[Callers] = []
        with ExitStack() as online:

            def ended(row: TaskRow) -> None:
                show(row)
                if row.task_id == "check_gates" and row.state == "success":
                    verdict.update(self.rest.result(dag_id, run_id, "check_gates").get("summary", {}))
                    if verdict.get("verdict") == "passed":
                        asking.append(online.enter_context(self._callers()))

            state = self.rest.wait(dag_id, run_id, 900, ended)
        rollout = self.rest.result(dag_id, run_id, "rollout").get("summary", {})
        for each in asking:
            self.summary.online = arms(each.traffic, rollout)
        outcome = {"passed": "promoted", "rejected": "rejected"}.get(str(verdict.get("verdict")), "failed")
        reasons = list(verdict.get("reasons", []))
        if rollout.get("state") == "rolled_back":
            outcome, reasons = "rolled back", [rollout["reason"]]
        self.summary.retraining = {
            "run_id": run_id,
            "outcome": outcome if state == "success" else "failed",
            "reasons": reasons,
        }

    def _callers(self) -> AbstractContextManager[Callers]:
        nights = Window.ending(self.calendar.nights.end, 7)
        return callers(self.model, self.base, nights, self.environment, self.base.parent / "gateway.log")

    def _finish(self, scored: Window) -> None:
        """Champions, AUC by week, and one online prediction."""
        status = json.loads(command(self.environment, "airflow-ml", "status", self.model.name, "--json"))
        self.summary.champions = [
            {"version": entry["version"], "auc": entry["roc_auc"], "reason": entry["reason"]}
            for entry in status["champions"]
        ]
        feedback = LakeTable(self.base / f"lake/{self.model.name}/feedback")
        if feedback.exists():
            self.summary.auc_by_week = auc_by_week(feedback, scored)
        self.summary.online_prediction = predict(self.model, self.base, self.rest_address)

    # the ways to Airflow

    def _run(self, name: str, what: str, conf: Mapping[str, Any]) -> str:
        run_id = self.rest.trigger(f"{self.model.name}_{what}", conf)
        self._wait(name, what, run_id)
        return run_id

    def _wait(self, name: str, what: str, run_id: str) -> None:
        dag_id = f"{self.model.name}_{what}"
        state = self.rest.wait(dag_id, run_id, 1800, self._on_task(name, dag_id))
        if state != "success":
            raise JobFailed(f"run {run_id} failed", where=dag_id, remedy=f"open it at {self.rest.url}/dags/{dag_id}")

    def _on_task(self, name: str, dag_id: str) -> Callable[[TaskRow], None]:
        def show(row: TaskRow) -> None:
            result = self.rest.result(dag_id, row.run_id, row.task_id) if row.state == "success" else {}
            rows = int(result.get("rows") or 0)
            self.say(f"    {row.task_id:28} {row.state:8} {row.duration or 0:7.1f} s {rows or '':>10}")
            if row.state != "skipped":
                self.summary.busy += [row.span] if row.span else []
                self.summary.stages.append(StageTime(f"{name}: {row.task_id}", round(row.duration or 0.0, 1), rows))

        return show

    def _scored(self, nights: Window) -> int:
        return len(set(nights) & set(LakeTable(self.base / f"lake/{self.model.name}/predictions").snapshot().rows))

    def _step(self, what: str) -> None:
        self.say(f"\n== {what}")


def _day(run: Mapping[str, Any]) -> date | None:
    return date.fromisoformat(run["logical_date"][:10]) if run["logical_date"] else None
