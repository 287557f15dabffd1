"""Who approved which release, in the release record: ``<base>/releases/<model>/approvals.json``, oldest first.

Nothing is ever taken out: that a release was rejected at first belongs to its story.
"""

from pathlib import Path

from airflow_ml.lifecycle.approvals import Answer
from airflow_ml.registry import records
from airflow_ml.spec import Platform
from airflow_ml.storage import locked


def path_of(platform: Platform, model_name: str) -> Path:
    """The file; it need not exist."""
    return Path(platform.base) / "releases" / model_name / "approvals.json"


def answers(platform: Platform, model_name: str) -> tuple[Answer, ...]:
    """All answers, oldest first.

    Raises:
        BaseError: A newer package wrote the file, or it is damaged.
    """
    path = path_of(platform, model_name)
    return records.read(path, lambda data: tuple(map(Answer.model_validate, data["answers"]))) or ()


def record(platform: Platform, model_name: str, answer: Answer) -> None:
    """Add an answer; the very same one twice, as a retry would, is one.

    Raises:
        BaseError: The record cannot be read or written.
    """
    path = path_of(platform, model_name)
    with locked(path.with_name(".approvals.lock")):
        known = answers(platform, model_name)
        if answer in known:
            return
        records.write(path, answers=[entry.model_dump(mode="json") for entry in (*known, answer)])
