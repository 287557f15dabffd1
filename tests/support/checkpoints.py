"""The checkpoints of a training that runs, as somebody sees them who looks at their folder all the time."""

import contextlib
import itertools
import threading
from collections.abc import Iterator

from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.stages.runner import identify, stage_of


class Checkpoints(threading.Thread):
    """Sees the checkpoints of a training, which are removed again, by their time and their place in it."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder = folder
        self.seen: dict[tuple[int, int], float] = {}
        """Epoch and step to the time at which it was written first."""
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.05):
            for path in self.folder.glob("epoch-*.pt"):
                _, epoch, *step = path.stem.split("-")
                with contextlib.suppress(FileNotFoundError):
                    self.seen.setdefault((int(epoch), int(step[1]) if step else 0), path.stat().st_mtime)

    @property
    def newest(self):
        return max(self.seen, default=(0, 0))

    def gap_s(self, at):
        """The longest time without one that began soon after a moment."""
        times = sorted(self.seen.values())
        return max(after - before for before, after in itertools.pairwise(times) if at - 2 < before < at + 3)


@contextlib.contextmanager
def checkpoints_of(request: JobRequest) -> Iterator[Checkpoints]:
    """Those of the training that a request asks for."""
    found = Checkpoints(identify(request, stage_of("train")).folder / "state" / "checkpoints")
    found.start()
    try:
        yield found
    finally:
        found.over.set()
        found.join()
