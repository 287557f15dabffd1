"""Buttons of a task: its report, its MLflow run, its model version."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink, conf

from airflow_ml.lifecycle.requests import JobResult
from airflow_ml.spec import Platform

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

_RUN_IN_LOG = re.compile(r"^MLflow run ([0-9a-f]{32})$")


class StageLink(BaseOperatorLink):
    """A link that a stage operator knows after its job: it is stored as an XCom, where the UI finds it."""

    def get_link(self, operator: "BaseOperator", *, ti_key: "TaskInstanceKey") -> str:
        """The address; empty when the result has nothing to show here."""
        links: dict[str, str] = getattr(operator, "links", {})
        return links.get(self.xcom_key, "")


class ReportLink(StageLink):
    """The report for people, served by the API server."""

    name = "Report"


class PerformanceLink(StageLink):
    """The second report of monitoring, beside the one on drift."""

    name = "Performance report"


class MLflowRunLink(StageLink):
    """The run in MLflow."""

    name = "MLflow run"


class ModelVersionLink(StageLink):
    """The version in the model registry."""

    name = "Model version"


class TrainingRunLink(StageLink):
    """The training run that a decision has started."""

    name = "Training run"


class ReleaseRecordLink(StageLink):
    """Everything that is known of a version: its gates, who approved it, its way to its traffic."""

    name = "Release record"


def release_url(dag_id: str, model: str, version: int) -> str:
    """Address of a version's page: the DAG decides who may see it."""
    base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}/airflow-ml/releases/{quote(dag_id, safe='')}/{model}/{version}"


def release_report_url(dag_id: str, model: str, version: int, report: str) -> str:
    """Address of a report that a version was registered with."""
    return f"{release_url(dag_id, model, version)}/{quote(report, safe='')}"


def report_url(dag_id: str, model: str, request: str, report: str) -> str:
    """Address of a report: the DAG decides who may see it, the request which file it is."""
    base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}/airflow-ml/reports/{quote(dag_id, safe='')}/{model}/{request}/{quote(report, safe='')}"


def report_links(dag_id: str, model: str, request: str, reports: Iterable[str]) -> list[tuple[StageLink, str]]:
    """Each report of a result, with its address."""
    return [
        (PerformanceLink() if report == "performance" else ReportLink(), report_url(dag_id, model, request, report))
        for report in reports
    ]


def run_page(dag_id: str, run_id: str) -> str:
    """Address of a DAG run in Airflow's UI."""
    base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def links_of(result: JobResult, platform: Platform, dag_id: str, request: str) -> dict[str, str]:
    """XCom key to address, for what the result has."""
    links = {link.xcom_key: url for link, url in report_links(dag_id, result.model, request, result.reports)}
    ui = mlflow_ui(platform)
    run, version = result.summary.get("mlflow_run_id"), result.summary.get("version")
    if ui and run:
        links[MLflowRunLink().xcom_key] = run_url(ui, str(run))
    if ui and version:
        links[ModelVersionLink().xcom_key] = f"{ui}/#/models/{result.model}/versions/{version}"
    return links


def url_in_log(line: str, platform: Platform) -> str | None:
    """Page of the run that a log line of a stage names: people watch a training while it runs."""
    named = _RUN_IN_LOG.match(line)
    ui = mlflow_ui(platform) if named else None
    return run_url(ui, named.group(1)) if named and ui else None


def run_url(ui: str, run: str) -> str:
    """Page of a run; MLflow finds its experiment."""
    return f"{ui}/#/runs/{run}"


def mlflow_ui(platform: Platform) -> str | None:
    """Address of MLflow's pages; None where no server is known."""
    if platform.registry_ui:
        return platform.registry_ui.rstrip("/")
    return platform.registry_uri.rstrip("/") if platform.registry_uri.startswith("http") else None
