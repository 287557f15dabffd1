"""The trigger of a job, as a triggerer treats it; what it says of a real cluster is tested with the operators."""

import asyncio
import contextlib
import threading
import time
from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_ml import KubernetesCompute
from airflow_ml.compute import Handle, JobState, Phase
from airflow_ml.compute.base import RemoteJob
from airflow_ml.compute.kubernetes.names import JOB, OWNER, PART_OF
from airflow_ml.hooks.platform import PlatformHook
from airflow_ml.hooks.watch import JobWatch
from airflow_ml.operators import TrainModelOperator
from airflow_ml.triggers.job import JobTrigger
from tests.support.models import small_model

REF = RemoteJob(namespace="ml", name="j", uid="u", owner="ti/1")
HANDLE = Handle(kind="kubernetes", id="h", folder="/nowhere", job=REF)


def trigger_of(kind=JobTrigger, **more):
    return kind(HANDLE.model_dump(mode="json"), KubernetesCompute(namespace="ml").model_dump(mode="json"), 0.0, **more)


def test_a_job_is_ended_though_airflow_cancels_its_trigger_again_and_again():
    opening, opened, ended = threading.Event(), threading.Event(), threading.Event()

    class Slow(JobTrigger):
        """Imports for seconds before it can end anything, as the first one of a triggerer does."""

        def _open(self):
            opening.set()
            opened.wait(10)
            return self

        def cancel(self, handle, wait):
            assert (handle, wait) == (HANDLE, False)
            ended.set()

    async def kill():
        killing = asyncio.create_task(trigger_of(Slow).on_kill())
        await asyncio.to_thread(opening.wait, 10)
        # As `TriggerRunner.cancel_triggers` does in each of its rounds.
        killing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await killing
        opened.set()
        return await asyncio.to_thread(ended.wait, 10)

    assert asyncio.run(kill())


def test_a_task_that_is_killed_while_it_submits_ends_what_it_has_submitted(platform, run_dag, monkeypatch):
    class Slow:
        """A cluster that takes a job while the task is told to go."""

        outlives_task, trigger, ended, task = True, None, [], None

        def submit(self, request, secrets, timeout_s):
            self.task.on_kill()
            return HANDLE

        def poll(self, handle):
            return JobState(Phase.ENDED)

        def logs(self, handle):
            return []

        def cancel(self, handle, wait=True):
            self.ended.append((handle, wait))

    class Told(TrainModelOperator):
        def request(self, context, platform):
            compute.task = self
            return super().request(context, platform)

    compute = Slow()
    monkeypatch.setattr(PlatformHook, "compute", lambda *_: compute)
    with DAG("killed", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC)) as dag:
        Told(task_id="train", model=small_model(), platform=platform, start="2013-01-01", end="2013-03-01")
    run_dag(dag)
    assert (HANDLE, False) in compute.ended


def test_a_job_for_which_nobody_makes_pods_is_ended_in_time():
    class Ending(JobTrigger):
        async def _events(self, watch, now):
            involved = {"kind": "Job", "name": "j", "uid": "u"}
            message = 'Error creating: pods "j-0-abcde" is forbidden: exceeded quota: q, hunter2'
            return [{"reason": "FailedCreate", "message": message, "involvedObject": involved}]

        async def _pods_now(self, watch, ref, folder):
            return []

        async def _cancel(self, handle):
            ended.append(handle)

    ended = []
    spec = KubernetesCompute(namespace="ml", start_timeout_s=0.5, lease_s=6000)
    job = {
        "metadata": {"name": "j", "uid": "u", "labels": {PART_OF: "j"}, "annotations": {OWNER: "ti/1"}},
        "status": {"startTime": datetime.now(UTC).isoformat()},
    }

    async def follow():
        watch = JobWatch("nowhere", "ml", JOB, queued=False)
        watch._take_job(job, deleted=False)
        watch.listed.set()
        trigger = trigger_of(Ending, tell_s=0.1)
        trigger.deadline = time.time() + 600
        return await asyncio.wait_for(trigger._follow(watch, HANDLE, spec, ["hunter2"]), 10)

    event = asyncio.run(follow())
    assert "not all of its pods ran within 0 s: job j: FailedCreate: " in event["detail"]
    assert "pods is forbidden: exceeded quota: q, ***" in event["detail"], "what is stored has no password"
    assert "quota" in event["remedy"]
    assert ended == [HANDLE]
