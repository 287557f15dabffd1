"""What a job and its pods say: objects as a real API server returned them, cut to what matters."""

import pytest

from airflow_ml.compute import Phase, follow
from airflow_ml.compute.kubernetes.facts import Fact, main_pod
from airflow_ml.compute.kubernetes.observing import observe, seconds_of
from airflow_ml.compute.kubernetes.queues import NO_QUEUE
from airflow_ml.compute.kubernetes.telling import Told
from airflow_ml.lifecycle.errors import BadFile, TrainingFailed
from airflow_ml.lifecycle.requests import JobResult

START = "2026-01-01T00:00:00Z"
NOW = seconds_of(START)
RESULT = JobResult(stage="train", model="m", fingerprint="f", spec_hash="s", code_version="1")


def job(*conditions, **status):
    return {
        "metadata": {"name": "j", "annotations": {"airflow-ml/min-pods": "2"}},
        "status": {
            "startTime": START,
            **status,
            "conditions": [{"type": kind, "status": "True", **more} for kind, more in conditions],
        },
    }


def pod(index=0, created=START, **state):
    statuses = [{"name": "base", "state": state}] if state else []
    return {
        "metadata": {
            "name": f"j-{index}-abcde",
            "creationTimestamp": created,
            "labels": {"batch.kubernetes.io/job-completion-index": str(index)},
        },
        "status": {"phase": "Running", "containerStatuses": statuses},
    }


def unschedulable(index=0):
    found = pod(index)
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    found["status"]["conditions"] = [condition]
    return found


RUNNING = {"running": {"startedAt": START}}
FAILED = ("Failed", {"reason": "PodFailurePolicy", "message": "Container base for pod ns/j-1 failed"})
COMPLETE = ("Complete", {})


def look(job_, pods, response=None, after=10.0, **more):
    return observe(job_, pods, response, NOW + after, start_timeout_s=60.0, **more)


def test_a_job_whose_pods_run_is_running_also_after_the_start_timeout():
    found = look(job(), [pod(0, **RUNNING), pod(1, **RUNNING)], after=1000)
    assert (found.state.phase, found.facts, found.to_end) == (Phase.RUNNING, (), False)


def test_a_job_that_has_not_started_in_time_says_what_its_pods_wait_for():
    pods = [pod(0, **RUNNING), unschedulable(1)]
    assert look(job(), pods).state.phase is Phase.RUNNING
    found = look(job(), pods, after=61)
    assert found.to_end
    error = follow(found.state).error
    assert "pod j-1-abcde: Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu." in str(error)
    assert "Remedy: wait for room" in str(error)


@pytest.mark.parametrize("waiting", [job(("Suspended", {})), job(startTime=None), job(failed=1)])
def test_what_waits_in_a_queue_or_for_a_replacement_is_not_late(waiting):
    assert not look(waiting, [unschedulable(1)], after=1000).to_end


def test_an_mpi_job_has_a_launcher_and_its_workers():
    mpi = job()
    mpi["metadata"]["annotations"]["airflow-ml/min-pods"] = "3"
    workers = [pod(n, **RUNNING) for n in (0, 1)]
    for number, worker in enumerate(workers):
        worker["metadata"]["labels"] = {"training.kubeflow.org/replica-index": str(number), "airflow-ml/role": "worker"}
    launcher = pod(0, **RUNNING)
    launcher["metadata"]["labels"] = {"training.kubeflow.org/job-role": "launcher"}
    assert look(mpi, workers, after=61).to_end
    assert not look(mpi, [*workers, launcher], after=61).to_end
    assert main_pod([*workers, launcher]) is launcher
    assert follow(look(job(("Succeeded", {})), [], RESULT).state).result is RESULT


def test_what_keeps_a_pod_open_that_has_answered_does_not_keep_its_task():
    pods = [pod(0, terminated={"exitCode": 0, "finishedAt": START}), pod(1, **RUNNING)]
    assert look(job(), pods, RESULT, after=19).state.phase is Phase.RUNNING
    found = look(job(), pods, RESULT, after=21)
    assert found.to_end
    assert follow(found.state).result is RESULT
    error = BadFile("no good", where="row 3")
    pods[0] = pod(0, terminated={"exitCode": 1, "finishedAt": START})
    assert follow(look(job(), pods, error, after=21).state).error is error
    killed = [pod(0, terminated={"exitCode": 137, "reason": "Error", "finishedAt": START}), pod(1, **RUNNING)]
    assert "Killed" in follow(look(job(), killed, after=21).state).error.what
    # One that has ended whole is replaced by its Job.
    killed[0]["status"]["phase"] = "Failed"
    assert look(job(), killed, after=21).state.phase is Phase.RUNNING


def elastic(*conditions, **status):
    """The two jobs of an elastic training that needs one of its workers: the coordinator's, and theirs."""
    return job(), job(*conditions, **status)


def worker(index, **state):
    found = pod(index, **state)
    found["metadata"]["name"] = f"j-workers-{index}-abcde"
    found["metadata"]["labels"]["airflow-ml/role"] = "worker"
    return found


def test_more_workers_than_are_needed_make_up_for_no_coordinator():
    coordinators, workers = elastic()
    trains = [worker(0, **RUNNING), worker(1, **RUNNING)]
    found = look(coordinators, [unschedulable(0), *trains], after=61, workers=workers)
    assert found.to_end
    assert "pod j-0-abcde: Unschedulable" in follow(found.state).error.what
    found = look(coordinators, [pod(0, **RUNNING), *trains], after=61, workers=workers)
    assert (found.ran, found.to_end) == (True, False)
    assert main_pod([*trains, pod(0, **RUNNING)])["metadata"]["name"] == "j-0-abcde"
    # It was evicted, which Kubernetes does not count, and the next one is on its way.
    assert not look(coordinators, trains, after=61, workers=workers, ran=True).to_end


@pytest.mark.parametrize(
    ("of_workers", "late"),
    [(elastic()[1], True), (job(("Suspended", {})), False), (job(startTime=None), False), (job(failed=1), False)],
)
def test_a_coordinator_whose_workers_wait_in_a_queue_is_not_late(of_workers, late):
    assert look(job(), [pod(0, **RUNNING)], after=1000, workers=of_workers).to_end is late


def in_queue(*conditions, **status):
    found = job(*conditions, **status)
    found["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "training"}
    return found


def workload(**conditions):
    """What Kueue says: type of a condition to its status and message."""
    listed = [{"type": kind, "status": status, "message": said} for kind, (status, said) in conditions.items()]
    return {"status": {"conditions": listed}}


PREEMPTED = "Preempted to accommodate a workload (UID: 7, JobUID: 8) due to prioritization in the ClusterQueue"
NO_ROOM = "couldn't assign flavors to pod set main: insufficient unused quota for pods in flavor gpus, 1 more needed"


def test_what_a_job_waits_for_is_told_once_in_the_words_of_its_queue():
    told, waits = Told(), in_queue(("Suspended", {}))
    seen = [
        look(waits, []),
        look(waits, [], workload=workload(QuotaReserved=("False", f"LocalQueue {NO_QUEUE} doesn't exist"))),
        look(waits, [], workload=workload(QuotaReserved=("False", NO_ROOM))),
        look(waits, [], workload=workload(QuotaReserved=("False", NO_ROOM))),
        look(in_queue(), [pod(0)], workload=workload(QuotaReserved=("True", "Quota reserved"))),
        look(in_queue(), [pod(0, **RUNNING), pod(1, **RUNNING)]),
        # What it says of an eviction it says twice, until it has looked for room again.
        look(waits, [], workload=workload(QuotaReserved=("False", PREEMPTED), Evicted=("True", PREEMPTED))),
        look(waits, [], workload=workload(QuotaReserved=("False", NO_ROOM), Evicted=("True", PREEMPTED))),
    ]
    assert [told.news(each) for each in seen] == [
        ["INFO it waits in the queue training"],
        [],
        [f"INFO it waits in the queue training: {NO_ROOM}"],
        [],
        ["INFO its queue has let it go"],
        [],
        [f"INFO it waits in the queue training: {PREEMPTED}"],
        [f"INFO it waits in the queue training: {PREEMPTED}; {NO_ROOM}"],
    ]
    # One that is only being made is suspended, too.
    assert Told().news(look(job(("Suspended", {})), [])) == []


def test_a_job_that_is_let_go_again_has_its_time_to_start_again():
    """Kueue has suspended it for another one: what ran before does not count, and what waits now may be late."""
    pods = [pod(0, **RUNNING), pod(1, **RUNNING)]
    assert look(in_queue(), pods).ran
    # Those that are on their way out.
    held = look(in_queue(("Suspended", {}), startTime=None), pods, after=1000, ran=True)
    assert (held.state.phase, held.ran, held.to_end) == (Phase.RUNNING, False, False)
    for leaving in pods:
        leaving["metadata"]["deletionTimestamp"] = START
    let_go = in_queue(startTime="2026-01-01T00:20:00Z")
    assert not look(let_go, pods, after=1201, ran=held.ran).ran
    assert not look(let_go, [pod(0, **RUNNING), unschedulable(1)], after=1259).to_end
    assert look(let_go, [pod(0, **RUNNING), unschedulable(1)], after=1261).to_end


def test_workers_that_have_failed_for_themselves_end_the_job_and_those_whose_coordinator_did_follow_it():
    coordinators, workers = elastic(("Failed", {"lastTransitionTime": START, "reason": "MaxFailedIndexesExceeded"}))
    ended = worker(1, terminated={"exitCode": 70, "reason": "Error", "message": "ImportError: no torch"})
    pods = [pod(0, **RUNNING), ended]
    assert look(coordinators, pods, after=59, workers=workers).state.phase is Phase.RUNNING
    found = look(coordinators, pods, after=61, workers=workers)
    assert found.to_end
    assert (
        "pod j-workers-1-abcde: Error: exit code 70, last lines: ImportError: no torch"
        in follow(found.state).error.what
    )
    # As long as the coordinator has not ended.
    said = look(job(FAILED), pods, BadFile("no good"), after=61, workers=workers)
    assert (said.to_end, type(follow(said.state).error)) == (False, BadFile)


def test_the_result_of_a_complete_job():
    assert follow(look(job(COMPLETE), [], RESULT).state).result is RESULT


def test_an_answer_may_come_a_little_later_than_the_end():
    complete = job(COMPLETE, completionTime=START)
    assert look(complete, [], after=59).state.phase is Phase.RUNNING
    assert "wrote no result" in str(follow(look(complete, [], after=61).state).error)


def test_what_the_stage_said_is_the_error_of_a_failed_job():
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": "a\nb\nc\nd"}}
    error = follow(look(job(FAILED), [pod(0, **ended)], BadFile("no good")).state).error
    assert isinstance(error, BadFile)


def test_a_pod_that_needed_too_much_memory_explains_what_pod_0_says_of_a_lost_peer():
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    lost = {"terminated": {"exitCode": 1, "reason": "Error"}}
    error = follow(
        look(job(FAILED), [pod(0, **lost), pod(1, **killed)], TrainingFailed("rank 0 lost the others")).state
    ).error
    assert "j-1-abcde: OOMKilled" in error.what
    assert "raise the memory limit" in error.remedy


def test_a_pod_that_needed_too_much_memory_ends_the_job_and_one_that_was_killed_does_not():
    killed = {"terminated": {"exitCode": 137, "reason": "Error"}}
    found = look(job(), [pod(0, **RUNNING), pod(1, **killed)])
    assert (found.state.phase, found.to_end) == (Phase.RUNNING, False)
    killed["terminated"]["reason"] = "OOMKilled"
    found = look(job(), [pod(0, **RUNNING), pod(1, **killed)])
    assert (found.state.phase, found.to_end) == (Phase.ENDED, True)
    assert "raise the memory limit" in follow(found.state).error.remedy


def test_a_job_that_failed_without_pods_says_the_cluster_s_reason():
    late = ("Failed", {"reason": "DeadlineExceeded", "message": "Job was active longer than specified deadline"})
    error = follow(look(job(late), []).state).error
    assert "DeadlineExceeded: Job was active longer" in error.what
    assert "raise the task's execution_timeout" in error.remedy


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
            "ImagePullBackOff: Back-off",
        ),
        (
            {"waiting": {"reason": "CreateContainerConfigError", "message": "container has runAsNonRoot"}},
            "CreateContainerConfigError: container has runAsNonRoot",
        ),
        (
            {"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: python"}},
            "StartError: exec: python",
        ),
        ({"terminated": {"exitCode": 137, "reason": "Error"}}, "Killed: exit code 137"),
        (
            {"terminated": {"exitCode": 3, "reason": "Error", "message": "1\n2\n3\n4"}},
            "exit code 3, last lines: 2 | 3 | 4",
        ),
    ],
)
def test_what_is_wrong_with_a_pod_is_told_in_the_cluster_s_words(state, said):
    (fact,) = look(job(), [pod(1, **state)]).facts
    assert said in str(fact)
    assert fact.final == ("terminated" in state)


@pytest.mark.parametrize(
    "state", [{"waiting": {"reason": "ContainerCreating"}}, {"terminated": {"exitCode": 0}}, RUNNING]
)
def test_what_is_as_it_should_be_is_no_news(state):
    assert look(job(), [pod(1, **state)]).facts == ()


def test_a_container_of_the_template_that_holds_up_or_fails_the_pod_is_named():
    waiting = pod(1)
    pull = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    waiting["status"]["initContainerStatuses"] = [{"name": "prepare", "state": pull}]
    beside = pod(1, **RUNNING)
    beside["status"]["containerStatuses"].append({"name": "exporter", "state": pull})
    for each, name in ((waiting, "prepare"), (beside, "exporter")):
        (fact,) = look(job(), [each]).facts
        assert str(fact) == f"pod j-1-abcde: ErrImagePull: container {name}: not found"
        assert "pull secret" in Told().news(look(job(), [each]))[0]
    ended = {"terminated": {"exitCode": 3, "reason": "Error", "message": "no data here"}}
    failed = pod(1, waiting={"reason": "PodInitializing"})
    failed["status"] |= {"phase": "Failed", "initContainerStatuses": [{"name": "prepare", "state": ended}]}
    error = follow(look(job(FAILED), [failed]).state).error
    assert "container prepare: exit code 3, last lines: no data here" in error.what


def test_a_container_that_was_started_anew_after_it_needed_too_much_memory_ends_the_job():
    again = pod(1, **RUNNING)
    again["status"]["containerStatuses"][0]["lastState"] = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    found = look(job(), [pod(0, **RUNNING), again])
    assert found.to_end
    assert "raise the memory limit" in follow(found.state).error.remedy


def test_an_evicted_pod_says_why():
    evicted = pod(1)
    evicted["status"] |= {"reason": "Evicted", "message": "The node was low on resource: memory.", "phase": "Failed"}
    (fact,) = look(job(), [evicted]).facts
    assert fact == Fact("j-1-abcde", "Evicted", "The node was low on resource: memory.", final=True)
    assert fact.remedy


def test_a_job_that_is_gone_has_what_it_answered():
    assert follow(look(None, [], RESULT).state).result is RESULT
    assert "the job is gone" in str(follow(look(None, []).state).error)


def test_the_log_is_that_of_the_newest_pod_0():
    newer = pod(0, created="2026-01-01T00:05:00Z")
    assert main_pod([pod(1), pod(0), newer]) is newer
    assert main_pod([pod(1)]) is None
