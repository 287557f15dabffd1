"""A person's answer to a gate report, and what it is good for: values and pure functions.

An answer is bound to the report by its hash, so that nobody has approved what they have not seen. An approval holds
for the report wherever it is asked for; a rejection is the answer to the one who asked, and a person may be asked again
in another run.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from airflow_ml.spec.approval import Approval
from airflow_ml.spec.base import Frozen

Option = Literal["approve", "reject"]


class Answer(Frozen):
    """What somebody, or the deadline, said.

    Attributes:
        version: Registry version that was asked about.
        gate_report: Hash of the report that was shown.
        option: What was chosen.
        by: Who, as they signed; else the user of Airflow; empty for the deadline.
        user: Whom Airflow knows them as.
        why: In their words.
        at: When.
        by_default: Whether it is the declared default, because nobody answered in time.
        asker: Run that asked, as ``<dag>/<run>``.
        cleared: How often that run had been cleared.
    """

    version: int
    gate_report: str
    option: Option
    by: str = ""
    user: str = ""
    why: str = ""
    at: datetime
    by_default: bool = False
    asker: str = ""
    cleared: int = 0

    @property
    def approved(self) -> bool:
        """Whether it is a yes."""
        return self.option == "approve"

    def __str__(self) -> str:
        done = "approved" if self.approved else "rejected"
        who = "the deadline's default" if self.by_default else self.by or "somebody"
        return f"{done} by {who} at {self.at:%Y-%m-%d %H:%M} UTC" + (f": {self.why}" if self.why else "")


def run_that_asks(dag_id: str, run_id: str) -> str:
    """The name of a run that asks, as `Answer.asker` keeps it."""
    return f"{dag_id}/{run_id}"


def standing(answers: Sequence[Answer], gate_report: str, asker: str = "", cleared: int | None = None) -> Answer | None:
    """The answer that holds for a report; None when a person has to be asked.

    Args:
        answers: All that were recorded for the model, oldest first.
        gate_report: Hash of the report.
        asker: Run that asks: a rejection that another one was given does not count.
        cleared: How often it was cleared: nor does one from before somebody cleared it. None: it does.
    """
    about = [answer for answer in answers if answer.gate_report == gate_report]
    if not about:
        return None
    newest = about[-1]
    same = newest.asker == asker and cleared in (None, newest.cleared)
    return newest if newest.approved or same else None


def needed(approval: Approval | None, share: float, answer: Answer | None) -> bool:
    """Whether a release has to wait for a person before it gets this share of the traffic.

    Args:
        approval: As declared.
        share: 0 to 1.
        answer: That holds for its gate report.
    """
    return approval is not None and share > approval.above and (answer is None or not answer.approved)
