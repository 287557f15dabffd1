"""Approval: how far a release may go before a person has said yes."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from airflow_ml.spec.base import Frozen

_ABOVE = re.compile(r"^above:\s*(\d*\.?\d+)\s*(%?)$")


class Approval(Frozen):
    """A person has to approve a release, who has seen its gate report.

    The answer is bound to the gate report by hash: a release whose report changed asks again.

    Attributes:
        above: Share of the traffic that a release may have unapproved: canary steps above it, and the promotion, wait
            for a person. 0, the default, is no traffic at all.
        deadline_s: For how long a person is asked.
        otherwise: What counts when nobody has answered by then.
    """

    above: float = Field(default=0.0, ge=0, lt=1)
    deadline_s: float = Field(default=86_400.0, gt=0, allow_inf_nan=False)
    otherwise: Literal["reject", "approve"] = "reject"


def _approval(value: Any) -> Any:
    """Take ``"required"`` and ``"above:0.1"`` for what they mean."""
    if not isinstance(value, str):
        return value
    if value == "required":
        return {}
    found = _ABOVE.match(value)
    share = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    if not 0 < share < 1:
        raise ValueError(
            f"{value!r} says nothing about approval; write 'required', or a share of the traffic above which a person "
            "is asked, as in 'above:0.1' or 'above:10%', or leave it out"
        )
    return {"above": share}


DeclaredApproval = Annotated[Approval | None, BeforeValidator(_approval)]
"""An `Approval`, or ``"required"``, or ``"above:<share>"``, or None."""
