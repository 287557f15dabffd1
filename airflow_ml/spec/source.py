"""Sources: where partitions land, and the schema that they are held to."""

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from airflow_ml.spec.base import Days, Frozen, Several

Severity = Literal["warn", "fail"]
"""``fail`` stops the pipeline before the partition is used; ``warn`` is written into the anomalies report only."""

ColumnType = Literal["string", "int", "float", "bool", "timestamp"]


_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


class InRange(Frozen):
    """Values lie in ``[minimum, maximum]``; a missing bound is open. Nulls are not looked at."""

    kind: Literal["in_range"] = "in_range"
    minimum: float | None = Field(default=None, allow_inf_nan=False)
    maximum: float | None = Field(default=None, allow_inf_nan=False)
    severity: Severity = "fail"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum: {self.minimum:g} lies above maximum {self.maximum:g}; swap them")
        return self


class Nulls(Frozen):
    """At most this share of a partition's values is null."""

    kind: Literal["nulls"] = "nulls"
    max_share: float = Field(ge=0, le=1)
    severity: Severity = "fail"


class Categories(Frozen):
    """At most this share of the values is outside what the champion's training saw, or outside ``allowed``."""

    kind: Literal["categories"] = "categories"
    max_unseen_share: float = Field(default=0.05, ge=0, le=1)
    allowed: tuple[str, ...] | None = None
    severity: Severity = "warn"


_TYPES_OF_CHECK: dict[str, tuple[ColumnType, ...]] = {"in_range": ("int", "float"), "categories": ("string",)}
"""Checks that not every column can have."""

ValueCheck = Annotated[InRange | Nulls | Categories, Field(discriminator="kind")]


def in_range(minimum: float | None = None, maximum: float | None = None, severity: Severity = "fail") -> InRange:
    """Values lie in ``[minimum, maximum]``."""
    return InRange(minimum=minimum, maximum=maximum, severity=severity)


def nulls(max_share: float, severity: Severity = "fail") -> Nulls:
    """At most ``max_share`` of the values is null."""
    return Nulls(max_share=max_share, severity=severity)


def categories(
    max_unseen_share: float = 0.05, allowed: tuple[str, ...] | None = None, severity: Severity = "warn"
) -> Categories:
    """At most ``max_unseen_share`` of the values is outside what training saw, or outside ``allowed``."""
    return Categories(max_unseen_share=max_unseen_share, allowed=allowed, severity=severity)


class Column(Frozen):
    """One column of a source.

    Attributes:
        name: As in the file's header.
        type: How text is parsed; a value that does not parse is refused with its row.
        nullable: Whether an empty field is allowed at all (its share is the business of `nulls`).
        checks: Value checks, each with a severity.
    """

    name: str
    type: ColumnType
    nullable: bool = False
    checks: Annotated[tuple[ValueCheck, ...], Several] = ()

    @model_validator(mode="after")
    def _checkable(self) -> Self:
        kinds = [check.kind for check in self.checks]
        for kind in kinds:
            types = _TYPES_OF_CHECK.get(kind)
            if types is not None and self.type not in types:
                raise ValueError(
                    f"checks: column {self.name!r} is {self.type}, and {kind} is for {' and '.join(types)} columns; "
                    "remove the check, or declare another type"
                )
            if kinds.count(kind) > 1:
                raise ValueError(f"checks: column {self.name!r} has {kind} twice; make one check of them")
        return self


class Volume(Frozen):
    """Rows of a partition against the mean of the trailing window."""

    min_ratio: float = Field(default=0.5, ge=0)
    max_ratio: float = Field(default=2.0, gt=0)
    trailing: Days = 14
    severity: Severity = "warn"

    @model_validator(mode="after")
    def _ordered(self) -> "Volume":
        if self.min_ratio >= self.max_ratio:
            raise ValueError(f"min_ratio {self.min_ratio} must be below max_ratio {self.max_ratio}")
        return self


class Schema(Frozen):
    """The declared schema of a source.

    Attributes:
        columns: In the order of the file.
        key: The column that names a row; it is unique in a partition.
        new_columns: What a column that is not declared means.
        volume: Bounds for the number of rows, or None for no check.
    """

    columns: Annotated[tuple[Column, ...], Several] = Field(min_length=1)
    key: str
    new_columns: Severity = "fail"
    volume: Volume | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Schema":
        names = [column.name for column in self.columns]
        # Neither Spark nor Delta tells names apart by their case.
        lower = [name.lower() for name in names]
        twice = sorted({name for name in names if lower.count(name.lower()) > 1})
        if twice:
            raise ValueError(f"columns declared twice: {', '.join(twice)}")
        if self.key not in names:
            raise ValueError(f"key {self.key!r} is not a column; declared are {', '.join(names)}")
        if "ds" in lower:
            raise ValueError("'ds' is the partition column, which we add; call the source's own column something else")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in file order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column of this name; KeyError when there is none."""
        return {column.name: column for column in self.columns}[name]


class Files(Frozen):
    """Delimited text files in a landing zone, one a partition.

    Attributes:
        path: With ``{ds}`` for the partition's date; ``.gz`` is decompressed. A relative path lies below the platform's
            ``landing`` folder.
        schema_: Declared as ``schema=``.
        delimiter: One character.
        encoding: A bad byte is refused with its row, never replaced.
    """

    # Dumped by alias as well as read by it: a spec that went through JSON is the spec that was declared.
    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    kind: Literal["files"] = "files"
    path: str
    schema_: Schema = Field(alias="schema")
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8"

    @field_validator("path")
    @classmethod
    def _has_partition(cls, value: str) -> str:
        if "{ds}" not in value:
            raise ValueError(f"{value!r} names no partition; put '{{ds}}' where the date goes")
        strange = [found for found in _PLACEHOLDER.findall(value) if found != "{ds}"]
        if strange:
            raise ValueError(
                f"{value!r} has {strange[0]}, which nothing fills; only {{ds}} is known: partitions are days"
            )
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            "a".encode(value)  # also refuses what does not make text of bytes, like "hex"
        except (LookupError, ValueError) as error:
            raise ValueError(f"{value!r} is not an encoding of text; write it as Python does: 'latin-1'") from error
        return value
