"""The trigger of a job, as a triggerer treats it; what it says of a real cluster is tested with the operators."""

import asyncio
import contextlib
import threading

from airflow_ml import KubernetesCompute
from airflow_ml.compute import Handle
from airflow_ml.compute.base import RemoteJob
from airflow_ml.triggers.job import JobTrigger

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
