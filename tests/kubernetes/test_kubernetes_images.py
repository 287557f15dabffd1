"""The smoke test of each image, in a pod that runs this machine's environment: no builder of images is at hand."""

import pytest

from tests.kubernetes.conftest import IMAGES
from tests.support.kube_cluster import until


@pytest.fixture
def ended(image_pods):
    """The three pods, when they have ended: name of the image to phase and log."""

    def all_ended():
        phases = {pod["metadata"]["name"]: pod["status"]["phase"] for pod in image_pods.pods()}
        return phases if set(phases.values()) <= {"Succeeded", "Failed"} else None

    phases = until(all_ended, 120)
    logs = {pod["metadata"]["name"]: image_pods.log(pod) for pod in image_pods.pods()}
    return {image: (phases[image], logs[image]) for image in IMAGES}


def test_what_each_image_is_for_works_in_a_pod(ended):
    for image, (phase, log) in ended.items():
        assert phase == "Succeeded", f"{image}: {log}"
        assert f"{image} works" in log
