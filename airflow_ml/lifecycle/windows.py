"""Windows of daily partitions."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from airflow_ml.spec.base import Frozen


class Window(Frozen):
    """Partitions from ``start`` to ``end``, both included; a night is a window of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    start: date = Field(alias="from")
    end: date = Field(alias="to")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"window ends {self.end}, before it starts {self.start}; swap `from` and `to`")
        return self

    @classmethod
    def of(cls, start: date | str, end: date | str | None = None) -> "Window":
        """A window of dates or ISO strings; one day when ``end`` is left out."""
        return cls.model_validate({"from": start, "to": start if end is None else end})

    @classmethod
    def ending(cls, end: date, days: int) -> "Window":
        """The ``days`` partitions up to and including ``end``."""
        return cls.of(end - timedelta(days=days - 1), end)

    def __iter__(self) -> Iterator[date]:  # type: ignore[override]
        return (self.start + timedelta(days=n) for n in range(len(self)))

    def __len__(self) -> int:
        return (self.end - self.start).days + 1

    def __contains__(self, day: date) -> bool:
        return self.start <= day <= self.end

    def __str__(self) -> str:
        return f"{self.start}" if self.start == self.end else f"{self.start}..{self.end}"

    def shift(self, days: int) -> "Window":
        """The same length, ``days`` later."""
        return Window.of(self.start + timedelta(days=days), self.end + timedelta(days=days))
