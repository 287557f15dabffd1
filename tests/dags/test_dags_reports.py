"""Reports behind Airflow's own permission check: what is served, to whom, and what is not."""

import json
import uuid
from pathlib import Path

import pytest

from airflow_ml.lifecycle.requests import FileOutput, JobResult

HTML = "<html><b>drift</b></html>"


@pytest.fixture
def result(tmp_path, monkeypatch):
    """A result with a report, as a task of the DAG `small_monitoring` received it; returns the request's id."""
    monkeypatch.setenv("AIRFLOW__AIRFLOW_ML__BASE", str(tmp_path / "base"))

    def make(uri=None, dag_id="small_monitoring", **reports):
        request = uuid.uuid4().hex
        folder = tmp_path / "base" / "runs" / "small" / "requests" / request
        folder.mkdir(parents=True)
        report = folder.parent.parent / "monitor" / "drift.html"
        report.parent.mkdir(exist_ok=True)
        report.write_text(HTML)
        (tmp_path / "outside.html").write_text("secret")
        output = FileOutput(uri=uri or str(report), sha256="0", media_type="text/html")
        found = JobResult(
            stage="monitor", model="small", fingerprint="f", spec_hash="5", code_version="1", reports={"drift": output}
        )
        (folder / "request.json").write_text(json.dumps({"coordinates": {"dag_id": dag_id}}))
        (folder / "response.json").write_text(found.model_dump_json())
        return request

    return make


def _get(client, path, token=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return client.get(f"/airflow-ml/reports/{path}", headers=headers)


def test_who_may_read_the_dag_sees_its_report_in_a_sandbox(client, token, result):
    answer = _get(client, f"small_monitoring/small/{result()}/drift", token("viewer"))
    assert (answer.status_code, answer.text) == (200, HTML)
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "sandbox allow-scripts" in policy
    assert "allow-same-origin" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_cookie_of_the_ui_is_enough(client, token, result):
    cookie = {"Cookie": f"_token={token('viewer')}"}
    answer = client.get(f"/airflow-ml/reports/small_monitoring/small/{result()}/drift", headers=cookie)
    assert answer.status_code == 200


def test_nobody_is_refused(client, result):
    assert _get(client, f"small_monitoring/small/{result()}/drift").status_code == 401


@pytest.mark.parametrize("bad", ["no token", "ey.ey.ey"])
def test_a_bad_token_is_refused(client, result, bad):
    assert _get(client, f"small_monitoring/small/{result()}/drift", bad).status_code in (401, 403)


def test_who_may_not_read_the_dag_is_refused(client, token, result):
    assert _get(client, f"small_monitoring/small/{result()}/drift", token(None)).status_code == 403


def test_a_report_is_not_seen_through_another_dag(client, token, result):
    """Permission for one DAG must not open the reports of all."""
    assert _get(client, f"mine/small/{result()}/drift", token("viewer")).status_code == 404


@pytest.mark.parametrize("report", ["none", "..", "%2e%2e%2frequest.json", "drift%2f..%2f..%2frequest.json"])
def test_only_named_reports_are_served(client, token, result, report):
    assert _get(client, f"small_monitoring/small/{result()}/{report}", token("viewer")).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "small_monitoring/..%2f..%2f..%2fetc/{request}/drift",
        "small_monitoring/small/..%2f..%2f..%2f..%2fetc/drift",
        "small_monitoring/small/{request}%2f..%2f{request}/drift",
        "small_monitoring/small/{short}/drift",
    ],
)
def test_paths_do_not_climb(client, token, result, path):
    request = result()
    answer = _get(client, path.format(request=request, short=request[:-1]), token("viewer"))
    assert answer.status_code in (404, 422)
    assert HTML not in answer.text


def test_a_result_cannot_name_a_file_outside_the_base(client, token, result, tmp_path):
    for uri in (tmp_path / "outside.html", tmp_path / "base" / ".." / "outside.html", Path("/etc/passwd")):
        assert _get(client, f"small_monitoring/small/{result(str(uri))}/drift", token("viewer")).status_code == 404


def test_a_link_out_of_the_base_is_not_followed(client, token, result, tmp_path):
    request = result()
    link = tmp_path / "base" / "link.html"
    link.symlink_to(tmp_path / "outside.html")
    assert _get(client, f"small_monitoring/small/{result(str(link))}/drift", token("viewer")).status_code == 404
    assert _get(client, f"small_monitoring/small/{request}/drift", token("viewer")).status_code == 200


@pytest.mark.parametrize(("inside", "status"), [(True, 200), (False, 404)])
def test_the_page_of_a_refusal_is_served_like_any_other(client, token, result, tmp_path, inside, status):
    request = result()
    folder = tmp_path / "base" / "runs" / "small"
    page = folder / "monitor" / "drift.html" if inside else tmp_path / "outside.html"
    named = {"anomalies": {"uri": str(page), "sha256": "0", "media_type": "text/html"}, "odd": {"uri": 7}}
    response = {"error": "DataBroken", "what": "no", "reports": named}
    (folder / "requests" / request / "response.json").write_text(json.dumps(response))
    answer = _get(client, f"small_monitoring/small/{request}/anomalies", token("viewer"))
    assert answer.status_code == status
    assert ("sandbox" in answer.headers.get("content-security-policy", "")) == inside
    assert _get(client, f"mine/small/{request}/anomalies", token("viewer")).status_code == 404
    assert _get(client, f"small_monitoring/small/{request}/odd", token("viewer")).status_code == 404


def test_a_request_without_a_result_has_no_report(client, token, result, tmp_path):
    request = result()
    response = tmp_path / "base" / "runs" / "small" / "requests" / request / "response.json"
    response.write_text(json.dumps({"error": "JobFailed", "what": "no"}))
    assert _get(client, f"small_monitoring/small/{request}/drift", token("viewer")).status_code == 404
    response.unlink()
    assert _get(client, f"small_monitoring/small/{request}/drift", token("viewer")).status_code == 404


# the page of a version


@pytest.fixture
def released(tmp_path, monkeypatch, register_dag):
    """Version 1 of a model with a DAG of its own; returns its record."""
    from datetime import UTC, datetime

    from airflow.sdk import DAG, BaseOperator

    from airflow_ml import Platform
    from airflow_ml.hooks.releases import ReleaseRecord
    from airflow_ml.lifecycle.approvals import Answer
    from tests.support.released import crown, record

    monkeypatch.setenv("AIRFLOW__AIRFLOW_ML__BASE", str(tmp_path / "base"))
    for dag_id, tags in (("small_paged", ["model:small"]), ("others", ["model:other"])):
        with DAG(dag_id, schedule=None, tags=tags) as dag:
            BaseOperator(task_id="t")
        register_dag(dag)
    platform = Platform(base=str(tmp_path / "base"))
    pages = {"evaluation": tmp_path / "base" / "evaluation.html", "elsewhere": tmp_path / "secret.html"}
    made = record(platform, "small", 1, reports=pages)
    for page in pages.values():
        page.write_text("<svg>a plot</svg>")
    crown(platform, "small", 1)
    found = ReleaseRecord(platform, "small")
    why = "<script>alert(1)</script>"
    answer = Answer(
        version=1, gate_report=made.gate_report.sha256, option="approve", by="Ann", why=why, at=datetime.now(UTC)
    )
    found.record(answer)
    return found


def _page(client, path, token=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return client.get(f"/airflow-ml/releases/{path}", headers=headers)


def test_the_page_of_a_version_shows_who_approved_it_in_a_sandbox(client, token, released):
    answer = _page(client, "small_paged/small/1", token("viewer"))
    assert answer.status_code == 200
    for fact in ("small, version 1: passed", "1 of the traffic", "approved by Ann", "this one", "a test"):
        assert fact in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "<script" not in answer.text
    assert "sandbox" in answer.headers["content-security-policy"]
    assert '<a href="1/evaluation">Evaluation, with plots</a>' in answer.text
    plots = _page(client, "small_paged/small/1/evaluation", token("viewer"))
    assert (plots.status_code, plots.text) == (200, "<svg>a plot</svg>")
    assert "sandbox" in plots.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "role", "status"),
    [
        ("small_paged/small/1", "nobody", 401),
        ("small_paged/small/1", None, 403),
        ("small_paged/small/1/evaluation", "nobody", 401),
        ("small_paged/small/1/evaluation", None, 403),
        ("others/small/1/evaluation", "viewer", 404),
        ("small_paged/small/1/gates", "viewer", 404),
        ("small_paged/small/1/elsewhere", "viewer", 404),
        ("small_paged/small/9/evaluation", "viewer", 404),
        ("others/small/1", "viewer", 404),
        ("small_paged/small/9", "viewer", 404),
        ("small_paged/small/x", "viewer", 422),
        ("small_paged/..%2fsmall/1", "viewer", 422),
    ],
)
def test_the_page_of_a_version_is_for_who_may_read_a_dag_of_the_model(client, token, released, path, role, status):
    assert _page(client, path, None if role == "nobody" else token(role)).status_code == status
