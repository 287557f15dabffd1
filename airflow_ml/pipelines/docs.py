"""What a DAG says about itself in the UI."""

from airflow_ml.spec import Model

_TEXTS = {
    "data": """\
A run's partition `ds` is its logical date. At 00:00 of `ds` it waits for the landing file, ingests it together with the
outcomes up to `ds` − {lag} days, validates, and builds features.

**By hand**: give `from` and `to`; half a year is one run, one Spark job and one commit a table.

**Repeating** a run changes nothing while its files, declaration and code are the same; otherwise exactly its
partitions are replaced.""",
    "training": """\
Started by drift (run id `drift__<window end>`), or by hand: the window ends with `to` (left out: the newest day with
labels). One run at a time.

Training set → train → evaluate, export → gates → register → release, in canary steps and after a person's approval
where the model declares them. A model that its gates reject is registered as
rejected and not released; the run is a success, and its note says `rejected` with the reasons.

**Clearing** a task reruns it and what follows; finished stages with the same inputs return their result.""",
    "scoring": """\
At 00:00 of `ds` it waits for the features of `ds` and scores them with the champion. `version` pins another version.

**Backfill** as you like: `airflow backfill create --dag-id {name}_scoring --from-date … --to-date …`. A repeated
night with the same champion changes no row; with another champion exactly that night's rows are replaced.""",
    "monitoring": """\
When `ds` is over it waits for predictions and labels of `ds`, joins them, compares the {window} days up to `ds` with
the release's reference, and decides: healthy, retrain, broken input, or why not now. Decisions are kept in the ledger
table, are taken in order, and count in data time. Backfill with `--max-active-runs 1`.""",
    "release": """\
Takes the `version` of the form to its traffic: a registered version that has passed its gates. The champion moves only
if nobody moved it meanwhile.

Where the model declares an approval, a person is asked in the task `approve`, who sees the gate report. The answer is
kept in the release record; without one in time the declared default counts. A release that is rejected, or rolled
back, is no failure of the run: its note says what happened.

`mode`: **declared**, as the model says; **canary**, in `steps`, judged at each; **shadow**, copies of requests and
nothing more; **at_once**, all traffic now; **rollback**, all traffic back: from the version that is on its way, else to
the champion before this one, or to `version`. A rollback asks nobody and waits for no other run.

**Stopping** the task (mark it, clear it) does what the model's `Canary.interrupted` declares.""",
}


def doc(model: Model, what: str) -> str:
    """Markdown of one DAG."""
    text = _TEXTS[what].format(name=model.name, lag=model.label.lag, window=model.monitoring.window)
    about = f"\n\n{model.description}" if model.description else ""
    return f"### {model.name}: {what}{about}\n\n{text}"
