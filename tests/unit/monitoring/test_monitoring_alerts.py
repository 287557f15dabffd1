"""The messages, as a mail client shows them."""

import pytest

from airflow_ml.lifecycle.alerts import LONGEST_SUBJECT, input_broken, of_decision, of_rollout

DECISION = {
    "decision": "retrain",
    "reasons": [
        "data drift: 12 of 37 columns (32%; the limit is 30%): late_rate_all, dewp",
        "performance: ROC AUC 0.58",
    ],
    "run_id": "drift__2013-09-15",
    "window": {"from": "2013-03-20", "to": "2013-09-15"},
    "monitored": {"from": "2013-09-09", "to": "2013-09-15"},
    "model_version": 3,
    "numbers": {"rows": 6512, "coverage": 0.9941, "roc_auc": 0.58123, "drifted_share": None},
    "evidence": "/base/runs/flights/monitor/1f/attempt-2/drift.html",
}
LINK = "https://airflow.example/airflow-ml/reports/flights_monitoring/1f?a=1&b=2"
RUN = "https://airflow.example/dags/flights_training/runs/drift__2013-09-15"


def test_a_retraining_says_why_on_what_and_what_to_do():
    message = of_decision("flights", DECISION, {"Report": LINK, "Training run": RUN})
    assert message.subject.startswith("[flights] retraining started, because data drift: 12 of 37 columns")
    for fact in (
        "version 3",
        "2013-09-09..2013-09-15",
        "drift__2013-09-15",
        "2013-03-20..2013-09-15",
        "0.5812",
        "6,512",
    ):
        assert fact in message.text
        assert fact in message.html
    assert "drifted share: unknown" in message.text
    assert all(reason in message.text for reason in DECISION["reasons"])
    assert message.text.endswith(f"\nReport: {LINK}\nTraining run: {RUN}\n")
    assert 'href="https://airflow.example/airflow-ml/reports/flights_monitoring/1f?a=1&amp;b=2"' in message.html
    assert f'Training run: <a href="{RUN}">' in message.html


def test_broken_input_asks_for_a_person_and_says_that_nothing_is_retrained():
    broken = {
        **DECISION,
        "decision": "broken_input",
        "run_id": None,
        "window": None,
        "reasons": ["column dewp is gone"],
    }
    message = of_decision("flights", broken)
    assert message.subject == "[flights] input is broken, a person must look: column dewp is gone"
    assert "Nothing is retrained" in message.text
    assert "clear flights_data, flights_scoring and flights_monitoring" in message.text
    assert "drift__" not in message.text
    # A path is no link: a mail client would open nothing.
    assert DECISION["evidence"] in message.text
    assert "href" not in message.html


@pytest.mark.parametrize("decision", ["healthy", "cooling_down", "in_flight", "no_budget", "not_judged"])
def test_nobody_is_disturbed_by_anything_else(decision):
    assert of_decision("flights", {**DECISION, "decision": decision}) is None


def test_a_subject_is_one_short_line_whatever_the_data_says():
    nasty = "x\r\nBcc: everybody@example.com " + "y" * 300
    for decision in ("retrain", "broken_input"):
        subject = of_decision("flights", {**DECISION, "decision": decision, "reasons": [nasty]}).subject
        assert len(subject) <= LONGEST_SUBJECT
        assert "\n" not in subject
        assert "\r" not in subject
        assert subject.endswith("…")


def test_html_shows_data_and_never_runs_it():
    script = "<script>alert('x')</script>"
    links = {"Report": "javascript:alert(1)", script: script}
    message = of_decision("flights", {**DECISION, "reasons": [script], "run_id": script}, links)
    assert "<script" not in message.html
    assert "&lt;script&gt;" in message.html
    assert "href" not in message.html


def test_a_decision_without_evidence_still_makes_a_message():
    message = of_decision("flights", {"decision": "broken_input"})
    assert message.subject == "[flights] input is broken, a person must look: see the report"
    assert "unknown" in message.text


def test_a_refused_file_is_named_and_its_remedy_comes_first():
    said = {"where": "/landing/raw/2013-09-15.csv.gz, row 7", "remedy": "have the upstream deliver it again"}
    log = {"Task log": "https://airflow.example/dags/flights_data/runs/1/tasks/ingest"}
    message = input_broken("flights", "2013-09-15", None, ("a field is missing",), {}, log, **said)
    assert message.subject == "[flights] input is broken, a person must look: a field is missing"
    assert "Where: /landing/raw/2013-09-15.csv.gz, row 7" in message.text
    assert "What to do\n- Have the upstream deliver it again.\n- When the files are back, clear" in message.text
    assert message.text.endswith(f"\nTask log: {log['Task log']}\n")
    assert "Look at the report" not in message.text


def test_a_rollout_that_went_back_says_which_version_by_which_numbers_and_who_answers_now():
    went_back = {
        "state": "rolled_back",
        "version": 4,
        "stable": 3,
        "reason": "errors 40.00%, stable 0.10%",
        "numbers": {"candidate_requests": 120, "errors_candidate": 0.4, "latency_limit": None},
        "by": "ann",
        "why": "it is <better>",
    }
    message = of_rollout("flights", went_back, {"Task log": LINK})
    assert message.subject == "[flights] version 4 was rolled back: errors 40.00%, stable 0.10%"
    for fact in ("version 3 answers all requests", "ann", "candidate requests: 120", "errors candidate: 0.4"):
        assert fact in message.text
    assert "it is &lt;better&gt;" in message.html
    assert of_rollout("flights", {**went_back, "state": "canary"}) is None
    assert of_rollout("flights", {**went_back, "state": "kept"}) is None
