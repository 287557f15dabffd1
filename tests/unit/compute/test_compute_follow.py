"""The one decision that follows every look at a job."""

import pytest

from airflow_ml.compute import JobState, Phase, follow
from airflow_ml.lifecycle.errors import BadFile, JobFailed
from airflow_ml.lifecycle.requests import JobResult

RESULT = JobResult(stage="train", model="small", fingerprint="f" * 64, spec_hash="5" * 64, code_version="1")


def test_a_running_job_is_looked_at_again():
    following = follow(JobState(Phase.RUNNING))
    assert following.result is following.error is None


def test_a_result_counts_even_when_the_process_was_killed_after_writing_it():
    assert follow(JobState(Phase.ENDED, -9, RESULT)).result == RESULT


def test_the_error_of_the_job_is_the_error():
    error = BadFile("torn", "a.csv", "send it again")
    assert follow(JobState(Phase.ENDED, 1, error)).error is error


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (3, "exit code 3"),
        (0, "exit code 0"),
        (-15, "signal 15"),
        (137, "signal 9 (killed: out of memory?)"),
        (None, "gone"),
    ],
)
def test_an_end_without_a_word_is_a_failure(code, text):
    error = follow(JobState(Phase.ENDED, code)).error
    assert isinstance(error, JobFailed)
    assert text in str(error)
