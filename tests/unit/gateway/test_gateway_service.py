"""The gateway as a real process before a real model server: what callers get, and what is left in the lake."""

import asyncio
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests

from airflow_ml.gateway.load import Load
from airflow_ml.lifecycle.routing import Arm, Experiment, Routing
from airflow_ml.registry import routes
from airflow_ml.serving.client import connect
from airflow_ml.serving.connections import Handed
from airflow_ml.serving.deployment import ModelConfigFile
from airflow_ml.serving.errors import RequestRefused, ServerUnreachable
from airflow_ml.serving.protos.messages import METHODS
from airflow_ml.serving.sandbox import model_server
from airflow_ml.spec import Platform
from tests.support.online import (
    NAME,
    ROOT,
    SIGNATURE,
    RunningGateway,
    gateway,
    logged,
    serve_versions,
    simple_model,
    wait_until,
)
from tests.support.released import crown, record
from tests.support.serving_waits import wait_available
from tests.support.tls import certificates
from tests.unit.serving.exported import exported

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

__all__ = ["exported"]

STABLE, CANDIDATE, NAN, SLOW, MISSING = 1, 2, 3, 4, 9
"""Versions: two good ones, two bad ones, and one that no server has."""


@pytest.fixture(scope="module")
def served(tmp_path_factory, exported):
    """A model server with the versions; only one is of a real network, which takes long to export."""
    folder = tmp_path_factory.mktemp("serving")
    made = tmp_path_factory.mktemp("made")
    kinds = {CANDIDATE: "sure", NAN: "nan", SLOW: "slow"}
    serve_versions(folder, {STABLE: exported.path} | {v: simple_model(made / kind, kind) for v, kind in kinds.items()})
    with model_server(folder) as server:
        with server.connect() as client:
            for version in (STABLE, CANDIDATE, NAN, SLOW):
                wait_available(client, NAME, version, 60)
        ModelConfigFile(folder).set_label(NAME, "stable", STABLE)
        yield folder, server


def released(base: Path, served) -> Platform:
    """A base whose records know the versions."""
    folder, server = served
    target = {"folder": str(folder), "grpc": server.grpc.removeprefix("grpc://")}
    platform = Platform(base=str(base), serving=target)
    for version in (STABLE, CANDIDATE, NAN, SLOW, MISSING):
        record(platform, NAME, version, SIGNATURE)
    crown(platform, NAME, STABLE)
    return platform


@pytest.fixture(scope="module")
def platform(tmp_path_factory, served):
    return released(tmp_path_factory.mktemp("base"), served)


@pytest.fixture(scope="module")
def running(platform):
    with gateway(platform) as found:
        yield found


@pytest.fixture
def routed(platform, running):
    """Routes, waits until it holds, and puts everything back."""

    def to(**changes) -> float:
        wanted = Routing(stable=STABLE, **changes)
        routes.route(platform, NAME, wanted, routes.routing(platform, NAME))
        return wait_until(lambda: running.routing() == wanted.model_dump(mode="json"), 10)

    yield to
    to()


@pytest.fixture(scope="module")
def rows(exported):
    """Golden rows with an entity, each with the answer of both good versions."""
    found = []
    for request in exported.golden:
        for place in range(len(request.probability)):
            row = {name: values[place] for name, values in request.inputs.items()}
            found.append({"id": f"e{len(found)}", **row})
    return found


@pytest.fixture(scope="module")
def truth(rows, served):
    """Version → what the server itself answers, row by row."""
    columns = {
        name: np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=kind)
        for name, kind in (("carrier", object), ("hour", np.int64), ("distance", float), ("wind", float))
    }
    with served[1].connect() as client:
        return {v: client.predict(NAME, columns, version=v).probability.tolist() for v in (STABLE, CANDIDATE)}


def canary(version: int, weight: float) -> tuple[Arm, ...]:
    return (Arm(name="canary", version=version, weight=weight),)


# --- what a caller gets --------------------------------------------------------------------------------------------


def test_features_by_name_are_answered_in_their_order(running, rows, truth):
    answer = running.ask(*rows, headers={"x-request-id": "mine"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["request_id"] == answer.headers["x-request-id"] == "mine"
    assert [each["id"] for each in body["predictions"]] == [row["id"] for row in rows]
    assert [each["probability"] for each in body["predictions"]] == pytest.approx(truth[STABLE], abs=1e-6)
    first = body["predictions"][0]
    assert first["decision"] is (first["probability"] >= 0.5)
    assert (first["model_version"], first["arm"], first["experiment"], first["fallback"]) == (1, "stable", None, None)


ASK = """
import json, sys
from airflow.sdk import DAG
from airflow_ml.operators import PredictOperator
from tests.support.online import model
with DAG("asks", schedule=None):
    tasks = [PredictOperator(task_id=f"ask_{n}", model=model, rows=sys.argv[2], **given)
             for n, given in enumerate(json.loads(sys.argv[1]))]
print(json.dumps([task.execute({}) for task in tasks]))
"""


def test_a_task_asks_the_gateway_and_a_server_for_the_same_rows(running, served, rows, truth, tmp_path):
    """In a process of its own: an Airflow is the process's."""

    def connection(address: str) -> str:
        host, _, port = address.removeprefix("grpc://").partition(":")
        return json.dumps({"conn_type": "tf_serving", "host": host, "port": int(port)})

    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONN_GATEWAY": connection(running.grpc),
        "AIRFLOW_CONN_SERVER": connection(served[1].grpc),
    }
    asked = [
        {"through": "gateway", "tf_serving_conn_id": "gateway"},
        {"version": STABLE, "tf_serving_conn_id": "server"},
        {"tf_serving_conn_id": "server"},
        {"version": CANDIDATE, "tf_serving_conn_id": "server"},
    ]
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(asked), json.dumps(rows)],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    by_gateway, *by_server = json.loads(done.stdout.splitlines()[-1])
    assert [each["id"] for each in by_gateway] == [row["id"] for row in rows]
    assert {(each["arm"], each["model_version"]) for each in by_gateway} == {("stable", STABLE)}
    for found, version in zip((by_gateway, *by_server), (STABLE, STABLE, STABLE, CANDIDATE), strict=True):
        assert {each["model_version"] for each in found} == {version}
        assert [each["probability"] for each in found] == pytest.approx(truth[version], abs=1e-6)


def test_a_client_of_tf_serving_is_a_client_of_the_gateway(running, rows, truth):
    columns = {"id": np.array([row["id"] for row in rows], dtype=object)}
    columns |= {name: np.array([row[name] for row in rows], dtype=object) for name in ("carrier",)}
    columns["hour"] = np.array([row["hour"] for row in rows])
    for name in ("distance", "wind"):
        columns[name] = np.array([np.nan if row[name] is None else row[name] for row in rows])
    with connect(running.grpc) as client:
        answer = client.predict(NAME, columns)
        assert answer.version == STABLE
        assert answer.probability.tolist() == pytest.approx(truth[STABLE], abs=1e-6)
        assert answer.outputs["id"].tolist() == [row["id"].encode() for row in rows]
        assert set(answer.outputs["arm"].tolist()) == {b"stable"}
        del columns["wind"]
        with pytest.raises(RequestRefused, match="row 0: 'wind' is missing: a float32, or null"):
            client.predict(NAME, columns)
        with pytest.raises(RequestRefused, match="version 2 is not open"):
            client.predict(NAME, columns, version=CANDIDATE)
        with pytest.raises(RequestRefused, match="a label is asked for"):
            client.predict(NAME, columns, label="stable")
        with pytest.raises(RequestRefused, match=r"'hour' is one value a row, .* got the shape \[32, 1\]"):
            client.predict(NAME, columns | {"hour": columns["hour"].reshape(-1, 1)})


def test_a_tensor_that_claims_more_than_it_holds_costs_nothing(running):
    request_class, response_class = METHODS["/tensorflow.serving.PredictionService/Predict"]
    request = request_class()
    request.model_spec.name = NAME
    request.inputs["hour"].dtype = 9
    request.inputs["hour"].tensor_shape.dim.add(size=10**12)
    request.inputs["hour"].int64_val.append(1)
    with grpc.insecure_channel(running.grpc.removeprefix("grpc://")) as channel:
        call = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict", request_class.SerializeToString, response_class.FromString
        )
        with pytest.raises(grpc.RpcError, match=r"of at most 1000 rows; got the shape \[1000000000000\]"):
            call(request, timeout=30)


def test_each_wrong_field_is_named(running, rows):
    good = rows[0]
    wrong = {**good, "hour": "seven", "distanse": 3}
    wrong.pop("distance")
    answer = running.ask(good, wrong)
    assert answer.status_code == 400
    assert {(each["row"], each["field"]) for each in answer.json()["fields"]} == {
        (1, "hour"), (1, "distance"), (1, "distanse"),
    }  # fmt: skip
    assert answer.json()["remedy"]
    nameless = {name: value for name, value in good.items() if name != "id"}
    assert running.ask(nameless).json()["fields"][0]["field"] == "id"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "not JSON"),
        (b'{"instances": [{"id": "a", "wind": NaN}]}', 400, "NaN is no JSON number"),
        (b'{"instances": [{"id": "\\ud800"}]}', 400, "surrogates not allowed"),
        (b'{"instances": [{"id": "\xed\xa0\x80"}]}', 400, "not JSON: 'utf-8' codec can't decode"),
        ('{"instances": [{"id": "\\ud800"}]}'.encode("utf-16"), 400, "not JSON: 'utf-8' codec can't decode"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"{}", 400, "no list 'instances'"),
        (b'{"instances": []}', 400, "are 0; send 1 to 1000"),
        (b'{"instances": [3]}', 400, "is an object of features"),
        (json.dumps({"instances": [{"id": "a"}] * 1001}).encode(), 400, "are 1001"),
        (b" " * (5 << 20), 413, "larger than"),
    ],
)
def test_what_is_no_request_is_refused_with_a_reason(running, body, status, says):
    answer = requests.post(f"{running.rest}/v1/models/{NAME}:predict", data=body, timeout=30)
    assert answer.status_code == status
    assert says in answer.text


def test_a_request_that_no_version_can_take_is_nobody_elses_fault(running, routed, rows):
    """Nor does it stay in the spool, where it would be read again and again."""
    routed(arms=canary(CANDIDATE, 1.0))
    before = running.counted("errors_total", model_version=str(CANDIDATE))
    text = json.dumps({"instances": [rows[0]]}, ensure_ascii=False)
    body = text.replace(f'"{rows[0]["carrier"]}"', '"?"').encode().replace(b"?", b"\xed\xa0\x80")
    for _ in range(6):
        assert requests.post(f"{running.rest}/v1/models/{NAME}:predict", data=body, timeout=30).status_code == 400
    assert running.counted("errors_total", model_version=str(CANDIDATE)) == before
    (answer,) = running.ask(rows[0]).json()["predictions"]
    assert (answer["arm"], answer["model_version"], answer["fallback"]) == ("canary", CANDIDATE, None)
    wait_until(lambda: running.counted("log_spool_bytes") == 0, 30)
    assert running.counted("log_rows_total", fate="lost") == 0
    assert running.counted("internal_errors_total") == 0


def test_a_body_may_be_gzip_and_no_larger_for_it(running, rows):
    whole = gzip.compress(json.dumps({"instances": rows[:1]}).encode())

    def sent(body: bytes, encoding: str = "gzip") -> requests.Response:
        url = f"{running.rest}/v1/models/{NAME}:predict"
        return requests.post(url, data=body, headers={"Content-Encoding": encoding}, timeout=30)

    assert sent(whole).json()["predictions"][0]["id"] == rows[0]["id"]
    assert sent(gzip.compress(b" " * (5 << 20))).status_code == 413
    for body, encoding, says in (
        (b"{}", "gzip", "not gzip: Error -3"),
        (whole[:-9], "gzip", "not gzip: it ends early"),
        (whole, "br", "not gzip: Content-Encoding is 'br'"),
    ):
        refused = sent(body, encoding)
        assert (refused.status_code, says in refused.json()["error"]) == (400, True), refused.text


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", f"v1/models/{NAME}:predict", 405),
        ("GET", f"v1/models/{NAME}:classify", 404),
        ("DELETE", f"v1/models/{NAME}", 405),
        ("GET", "v2/health", 404),
    ],
)
def test_what_is_no_route_is_told_as_json_with_those_that_are(running, verb, path, status):
    answer = requests.request(verb, f"{running.rest}/{path}", timeout=30)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(f"{verb} /{path}: ")
    assert f"POST /v1/models/{NAME}:predict" in answer.json()["remedy"]


def test_only_its_own_model_is_answered_for(running, rows):
    answer = requests.post(f"{running.rest}/v1/models/nobody:predict", json={"instances": rows[:1]}, timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (404, "no model 'nobody' here")
    assert requests.get(f"{running.rest}/v1/models/nobody", timeout=30).status_code == 404
    described = requests.get(f"{running.rest}/v1/models/{NAME}", timeout=30).json()
    assert (described["entity"], described["inputs"]) == ("id", SIGNATURE)
    for path in ("healthz", "readyz"):
        assert requests.get(f"{running.rest}/{path}", timeout=30).text == "ok\n"


# --- who answers ---------------------------------------------------------------------------------------------------


def test_a_change_of_the_routing_holds_in_two_seconds_and_users_stay(running, routed, rows, truth):
    assert routed(arms=canary(CANDIDATE, 0.2)) < 2

    def arms() -> dict[str, str]:
        found = running.ask(*rows).json()["predictions"]
        for place, each in enumerate(found):
            version = CANDIDATE if each["arm"] == "canary" else STABLE
            assert each["model_version"] == version
            assert each["probability"] == pytest.approx(truth[version][place], abs=1e-6)
        return {each["id"]: each["arm"] for each in found}

    small = arms()
    assert set(small.values()) == {"stable", "canary"}
    assert arms() == small
    assert routed(arms=canary(CANDIDATE, 0.6)) < 2
    large = arms()
    assert {i for i, arm in small.items() if arm == "canary"} < {i for i, arm in large.items() if arm == "canary"}
    assert running.counted("weight", arm="canary") == 0.6


def test_experiments_by_name_and_alpha_versions_by_header(running, routed, rows):
    arms = (Arm(name="control", version=STABLE, weight=0.5), Arm(name="treatment", version=CANDIDATE, weight=0.5))
    routed(experiments=(Experiment(name="prices", arms=arms),), alpha=(CANDIDATE,))
    found = running.ask(*rows, headers={"x-experiment": "prices"}).json()["predictions"]
    assert {(e["arm"], e["model_version"], e["experiment"]) for e in found} == {
        ("control", STABLE, "prices"), ("treatment", CANDIDATE, "prices"),
    }  # fmt: skip
    (early,) = running.ask(rows[0], headers={"x-model-version": "2"}).json()["predictions"]
    assert (early["arm"], early["model_version"]) == ("alpha", CANDIDATE)
    assert {e["arm"] for e in running.ask(*rows).json()["predictions"]} == {"stable"}
    for header, value, says in (
        ("x-experiment", "colours", "no experiment 'colours'"),
        ("x-model-version", "3", "version 3 is not open"),
        ("x-model-version", "two", "'two' is no version"),
        ("x-model-version", "9" * 5000, "999' is no version"),
    ):
        refused = running.ask(rows[0], headers={header: value})
        assert refused.status_code == 400
        assert says in refused.json()["error"]


@pytest.mark.parametrize(("version", "error"), [(NAN, "wrong_answer"), (MISSING, "not_served"), (SLOW, "timeout")])
def test_a_version_that_fails_is_replaced_by_stable_within_the_deadline(running, routed, rows, truth, version, error):
    routed(arms=canary(version, 1.0))
    before = running.counted("errors_total", model_version=str(version), error=error)
    began = time.monotonic()
    (answer,) = running.ask(rows[5]).json()["predictions"]
    assert time.monotonic() - began < 2.5
    assert (answer["arm"], answer["model_version"], answer["fallback"]) == ("canary", STABLE, "previous")
    assert answer["probability"] == pytest.approx(truth[STABLE][5], abs=1e-6)
    assert running.counted("errors_total", model_version=str(version), error=error) == before + 1


def test_a_version_that_takes_other_features_is_no_fault_of_the_caller(running, routed, platform, rows):
    record(platform, NAME, 11, {**SIGNATURE, "gusts": "float32"})
    routed(arms=canary(11, 1.0))
    (answer,) = running.ask(rows[0]).json()["predictions"]
    assert (answer["arm"], answer["model_version"], answer["fallback"]) == ("canary", STABLE, "previous")
    assert running.counted("errors_total", model_version="11", error="signature") == 1
    assert running.ask({**rows[0], "gusts": 1.0}).status_code == 200
    assert running.ask({**rows[0], "gusty": 1.0}).status_code == 400


def test_shadows_neither_delay_nor_fail_an_answer_and_are_recorded(running, routed, platform, rows):
    routed(shadow=(CANDIDATE, NAN, SLOW, MISSING))
    took = []
    for _ in range(5):
        began = time.monotonic()
        (answer,) = running.ask(rows[0], headers={"x-request-id": "copied"}).json()["predictions"]
        took.append(time.monotonic() - began)
        assert (answer["arm"], answer["model_version"], answer["fallback"]) == ("stable", STABLE, None)
    assert min(took) < 0.5

    def copies() -> list[dict]:
        return [row for row in logged(platform) if row["request_id"] == "copied" and row["arm"] == "shadow"]

    wait_until(lambda: len(copies()) == 20, 40)
    slow = {None, "timeout"}  # five at once may hold each other up
    errors = {CANDIDATE: {None}, NAN: {"wrong_answer"}, SLOW: slow, MISSING: {"not_served"}}
    assert Counter(row["model_version"] for row in copies()) == dict.fromkeys(errors, 5)
    assert all(row["error"] in errors[row["model_version"]] for row in copies())


def test_a_damaged_routing_puts_all_traffic_on_the_champion_and_says_so(running, routed, platform, rows):
    routed(arms=canary(CANDIDATE, 1.0))
    path = routes.path_of(platform, NAME)
    whole = path.read_text()
    path.write_text("{")
    wait_until(lambda: running.routing()["arms"] == [], 5)
    assert running.ask(rows[0]).json()["predictions"][0]["arm"] == "stable"
    assert running.counted("routing_errors_total") >= 1
    path.write_text(whole)
    wait_until(lambda: running.routing()["arms"] != [], 5)
    assert "is right again" in running.log.read_text()


def test_what_was_answered_is_in_the_lake_with_all_that_a_judge_needs(running, platform, rows):
    running.ask(*rows[:3], headers={"x-request-id": "to-be-logged"})
    wait_until(lambda: any(row["request_id"] == "to-be-logged" for row in logged(platform)), 30)
    found = sorted((r for r in logged(platform) if r["request_id"] == "to-be-logged"), key=lambda r: r["row"])
    assert [row["entity"] for row in found] == ["e0", "e1", "e2"]
    first = found[0]
    assert json.loads(first["inputs"]) == {name: rows[0][name] for name in SIGNATURE}
    assert (first["model_version"], first["label"], first["arm"], first["error"]) == (STABLE, "stable", "stable", None)
    assert 0 < first["probability"] < 1
    assert 0 < first["latency_ms"] < 2000


def test_metrics_show_rates_errors_latencies_and_scores_by_arm(running, rows):
    before = running.counted("predictions_total", arm="stable", outcome="answered")
    running.ask(*rows)
    running.ask({})
    assert running.counted("predictions_total", arm="stable", outcome="answered") == before + len(rows)
    assert running.counted("score_count", arm="stable", model_version="1") >= len(rows)
    assert running.counted("latency_seconds_count", arm="stable") >= 1
    assert running.counted("request_seconds_count", protocol="rest") >= 1
    assert running.counted("refused_total", reason="fields") >= 1


# --- deaths --------------------------------------------------------------------------------------------------------


def bombard(running: RunningGateway, rows: list[dict], stop: threading.Event) -> list[str]:
    """Ask without a pause from four threads; returns, at the end, the ids of all that were answered."""
    answered: list[str] = []

    def ask(name: int) -> None:
        with requests.Session() as session:
            number = 0
            while not stop.is_set():
                key = f"{running.process.pid}-{name}-{number}"
                number += 1
                try:
                    found = session.post(
                        f"{running.rest}/v1/models/{NAME}:predict", json={"instances": rows[:1]},
                        headers={"x-request-id": key}, timeout=30,
                    )  # fmt: skip
                except requests.RequestException:
                    continue
                if found.status_code == 200:
                    answered.append(key)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answered


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_answer_that_was_given_is_missing_in_the_lake(tmp_path, served, rows, number):
    """On SIGTERM by the gateway's own end; after kill -9 the committer brings what is spooled."""
    platform = released(tmp_path, served)
    stop = threading.Event()
    with gateway(platform) as found:

        def end() -> None:
            time.sleep(2)
            if number == signal.SIGTERM:
                os.killpg(found.process.pid, number)  # as a service manager does
            else:
                found.process.kill()
            found.process.wait(40)
            stop.set()

        killer = threading.Thread(target=end)
        killer.start()
        answered = bombard(found, rows, stop)
        killer.join()
        assert found.process.returncode == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        if number == signal.SIGKILL:
            wait_until(lambda: not list((tmp_path / "spool" / NAME).iterdir()), 30)
    kept = Counter(row["request_id"] for row in logged(platform))
    assert len(answered) > 50
    assert set(answered) <= set(kept)
    assert set(kept.values()) == {1}
    assert list((tmp_path / "spool" / NAME).iterdir()) == []


def test_what_a_gateway_left_that_died_with_its_committer_is_brought_by_the_next(tmp_path, served, rows):
    platform = released(tmp_path, served)
    with gateway(platform) as first:
        keys = [first.ask(rows[0]).json()["request_id"] for _ in range(20)]
        os.killpg(first.process.pid, signal.SIGKILL)
        first.process.wait()
    assert logged(platform) == []
    with gateway(platform) as second:
        wait_until(lambda: second.counted("log_rows_total", fate="recovered") == len(keys), 30)
    assert sorted(row["request_id"] for row in logged(platform)) == sorted(keys)


def test_the_log_waits_for_a_lake_that_cannot_be_written_and_for_a_committer_that_died(tmp_path, served, rows):
    platform = released(tmp_path, served)
    table = tmp_path / "lake" / NAME / "online"
    table.parent.mkdir(parents=True)
    table.write_text("no folder")
    with gateway(platform) as found:
        keys = [found.ask(rows[0]).json()["request_id"] for _ in range(5)]
        wait_until(lambda: found.counted("log_failures_total") >= 1, 30)
        assert found.counted("log_spool_bytes") > 0
        (committer,) = children(found.process.pid)
        os.kill(committer, signal.SIGKILL)
        keys += [found.ask(rows[0]).json()["request_id"] for _ in range(5)]
        table.unlink()
        wait_until(lambda: found.counted("log_rows_total", fate="committed") == len(keys), 40)
        assert found.counted("log_rows_total", fate="lost") == 0
    assert sorted(row["request_id"] for row in logged(platform)) == sorted(keys)


def test_told_to_end_just_when_its_committer_died_it_loses_nothing(tmp_path, served, rows):
    platform = released(tmp_path, served)
    with gateway(platform) as found:
        keys = [found.ask(rows[0]).json()["request_id"] for _ in range(5)]
        (committer,) = children(found.process.pid)
        os.kill(committer, signal.SIGKILL)
        time.sleep(0.2)  # it is started anew after a second
        found.process.terminate()
        assert found.process.wait(40) == 0, found.log.read_text()[-2000:]
    assert sorted(row["request_id"] for row in logged(platform)) == sorted(keys)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_without_a_champion_it_waits_for_one(tmp_path, served, rows):
    folder, server = served
    target = {"folder": str(folder), "grpc": server.grpc.removeprefix("grpc://")}
    with gateway(Platform(base=str(tmp_path), serving=target)) as found:
        assert requests.get(f"{found.rest}/readyz", timeout=30).status_code == 503
        answer = found.ask(rows[0])
        assert (answer.status_code, answer.json()["remedy"][:17]) == (503, "release a version")
        with connect(found.grpc, deadline=2) as client, pytest.raises(ServerUnreachable, match="no champion"):
            client.predict(NAME, {"id": np.array(["a"], dtype=object)})
        released(tmp_path, served)
        assert wait_until(lambda: found.ask(rows[0]).status_code == 200, 10) < 2


def test_a_grpc_port_that_is_taken_is_told_and_nothing_stays_behind(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(RuntimeError, match=f"where:  127.0.0.1:{port}"),
            gateway(Platform(base=str(tmp_path)), grpc_port=port),
        ):
            pass
    assert list((tmp_path / "spool" / NAME).iterdir()) == []


@pytest.mark.parametrize(("which", "status"), [("hasty", 504), ("modest", 200)])
def test_a_server_that_hangs_costs_the_deadline_and_no_more(tmp_path, served, rows, which, status):
    platform = released(tmp_path, served)
    with socket.socket() as silent:  # it listens, and that is all
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        platform = platform.model_copy(update={"serving": platform.serving.model_copy(update={"grpc": address})})
        with gateway(platform, which) as found:
            began = time.monotonic()
            answer = found.ask(rows[0])
            assert 0.3 <= time.monotonic() - began < 1.5
    assert answer.status_code == status
    (kept,) = logged(platform)
    assert (kept["error"], kept["model_version"]) == ("timeout", STABLE)
    if which == "hasty":
        assert "no answer in time" in answer.json()["error"].lower() or "deadline" in answer.json()["error"].lower()
        assert (kept["probability"], kept["fallback"]) == (None, None)
        assert kept["inputs"] is not None
    else:
        (row,) = answer.json()["predictions"]
        assert (row["probability"], row["fallback"], row["decision"]) == (0.25, "default", False)
        assert (kept["probability"], kept["fallback"]) == (0.25, "default")
        assert (kept["inputs"], len(kept["inputs_sha256"])) == (None, 64), "the declaration keeps hashes only"


def test_a_server_that_is_away_is_told_at_once_and_found_when_it_comes_back(tmp_path, served, rows):
    platform = released(tmp_path, served)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    target = platform.serving.model_copy(update={"grpc": f"127.0.0.1:{port}"})
    with gateway(platform.model_copy(update={"serving": target}), "hasty") as found:
        began = time.monotonic()
        told = {found.ask(rows[0]).status_code for _ in range(3)}
        # On a busy machine the deadline may be over before the connection is refused.
        assert 503 in told <= {503, 504}
        assert time.monotonic() - began < 3
        with model_server(served[0], flags=[f"--port={port}"]) as server:
            with server.connect() as client:
                wait_available(client, NAME, STABLE, 60)
            assert wait_until(lambda: found.ask(rows[0]).status_code == 200, 10) < 2


def test_its_way_to_the_server_is_mutual_tls_where_the_connection_says_so(tmp_path, served, rows, monkeypatch):
    made = certificates()
    config = tmp_path / "ssl.config"
    config.write_text(
        f"server_key: {json.dumps(made.server_key)} server_cert: {json.dumps(made.server)} "
        f"custom_ca: {json.dumps(made.ca)} client_verify: true"
    )
    pki = {"ca": made.ca, "certificate": made.client, "key": made.client_key}
    for name, value in Handed("models", extra=pki, password="t0ken").to_environment().items():
        monkeypatch.setenv(name, value)
    platform = released(tmp_path / "base", served)
    with model_server(served[0], flags=[f"--ssl_config_file={config}"]) as server:
        address = {"grpc": server.grpc.removeprefix("grpc://")}
        for update, status in ((address | {"conn_id": "models"}, 200), (address, 503)):
            target = platform.serving.model_copy(update=update)
            with gateway(platform.model_copy(update={"serving": target})) as found:
                assert found.ask(rows[0]).status_code == status


def test_a_connection_that_it_does_not_have_is_named_and_nothing_is_listened_to(tmp_path, served):
    platform = released(tmp_path, served)
    target = platform.serving.model_copy(update={"conn_id": "nowhere"})
    with (
        pytest.raises(RuntimeError, match="AIRFLOW_ML_CONN_NOWHERE"),
        gateway(platform.model_copy(update={"serving": target})),
    ):
        pass


# --- traffic that goes on while the routing changes -----------------------------------------------------------------

RATE = 200


async def _through(running: RunningGateway, platform: Platform, rows: list[dict], steps: dict[str, Routing]):
    """Route step by step under load; returns what became of the requests of each step."""
    many = [{**row, "id": f"user-{number}"} for number, row in enumerate(rows * 20)]
    found = {}
    async with Load(running.rest, NAME, many, "id", RATE) as load:
        await asyncio.sleep(1)
        for name, wanted in steps.items():
            if wanted.stable != routes.routing(platform, NAME).stable:
                crown(platform, NAME, wanted.stable)
            else:
                routes.route(platform, NAME, wanted, routes.routing(platform, NAME))
            await asyncio.to_thread(
                wait_until, lambda wanted=wanted: running.routing() == wanted.model_dump(mode="json"), 5
            )
            await load.settled()
            load.take()
            await asyncio.sleep(1.2)
            found[name] = load.take()
    return found


def test_no_request_fails_while_versions_come_and_go(tmp_path, served, rows):
    """A good version, one that returns NaN, a slow one, one that no server loaded, then a promotion and a rollback."""
    platform = released(tmp_path, served)
    steps = {
        "nothing": Routing(stable=STABLE),
        "good 10 %": Routing(stable=STABLE, arms=canary(CANDIDATE, 0.1)),
        "good 50 %": Routing(stable=STABLE, arms=canary(CANDIDATE, 0.5)),
        "nan 20 %": Routing(stable=STABLE, arms=canary(NAN, 0.2)),
        "slow 20 %": Routing(stable=STABLE, arms=canary(SLOW, 0.2)),
        "missing 20 %": Routing(stable=STABLE, arms=canary(MISSING, 0.2)),
        "shadows": Routing(stable=STABLE, shadow=(CANDIDATE, NAN, MISSING)),
        "promoted": Routing(stable=CANDIDATE),
        "rolled back": Routing(stable=STABLE),
    }
    with gateway(platform) as found:
        traffic = asyncio.run(_through(found, platform, rows, steps))
    for name, seen in traffic.items():
        assert seen.failed == {}, name
        assert seen.fallbacks["stable"] == 0, name
        assert seen.requests > RATE / 2, name
    for name in ("nan 20 %", "slow 20 %", "missing 20 %"):
        assert traffic[name].fallbacks["canary"] > 0, name
    assert set(traffic["promoted"].versions) == {CANDIDATE}
    assert set(traffic["rolled back"].versions) == {STABLE}
    share = traffic["good 50 %"].answered["canary"] / traffic["good 50 %"].requests
    assert 0.4 < share < 0.6
    ten, fifty = (
        {user for user, arm in traffic[n].arms.items() if arm == "canary"} for n in ("good 10 %", "good 50 %")
    )
    both = set(traffic["good 10 %"].arms) & set(traffic["good 50 %"].arms)
    assert ten & both <= fifty
    kept = logged(platform)
    live = [row for row in kept if row["arm"] != "shadow"]
    assert len(live) == len({row["request_id"] for row in live}) >= sum(seen.requests for seen in traffic.values())
