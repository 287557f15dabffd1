"""What a bench hands back: tables for people, the same as JSON, and on which machine it was measured."""

import json
import os
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BUILD = Path("build/bench")
"""Results and cached inputs, below the repository."""

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns.

    Attributes:
        title: What is compared with what.
        columns: Headings, with units.
        rows: One cell a column; None is shown as a dash.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Report:
    """One bench.

    Attributes:
        name: Of the bench and of its file.
        tables: In the order of reading.
        notes: What a reader has to know to trust the numbers: how they were taken.
        details: Everything measured, for machines.
    """

    name: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path = BUILD) -> Path:
        """Write ``<name>.json`` and ``<name>.md``; the path of the JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {**asdict(self), "machine": machine()}
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
        texts = [f"**{table.title}**\n\n{markdown(table)}" for table in self.tables]
        (folder / f"{self.name}.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        return path


def machine() -> dict[str, Any]:
    """Cores that this process may use, memory, Python: what a reader needs to compare, and no name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "load": round(os.getloadavg()[1], 2),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    """The processor's model, where the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def show(value: Cell) -> str:
    """A cell as text: three significant digits, thousands apart."""
    if value is None:
        return "–"
    if isinstance(value, float):
        digits = 4 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else value


def text(table: Table) -> str:
    """The table for a terminal: first column to the left, numbers to the right."""
    lines = [list(table.columns), *([show(cell) for cell in row] for row in table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]
    aligned = [
        "  ".join(_pad(cell, width, i) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([table.title, "", aligned[0].rstrip(), rule, *(line.rstrip() for line in aligned[1:])])


def markdown(table: Table) -> str:
    """The table for a README."""
    head = ["| " + " | ".join(table.columns) + " |", "|---" + "|---:" * (len(table.columns) - 1) + "|"]
    return "\n".join(head + ["| " + " | ".join(show(cell) for cell in row) + " |" for row in table.rows])


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)


def median(values: Sequence[float]) -> float:
    """The upper median: one of the values that were measured."""
    return sorted(values)[len(values) // 2]


def peak_rss_mib() -> float:
    """Most memory that this process ever held, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of Linux starts with what the parent held before exec
        lines = status.read_text(encoding="utf-8").splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
