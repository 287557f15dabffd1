"""Prints what the package needs where no Airflow runs: ``python docker/requirements.py EXTRA...``.

The package's own dependencies are those of the Airflow side. Pods need its extras, and of the rest only pydantic and
typer; versions come from requirements.lock, by ``--constraints``. Only the standard library is imported.
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(extras: list[str], pyproject: Path) -> list[str]:
    """Requirements of the extras, those that they name included.

    Args:
        extras: Names of extras.
        pyproject: The package's declaration.

    Raises:
        SystemExit: There is no such extra.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    known: dict[str, list[str]] = project["optional-dependencies"]
    found = {each for each in project["dependencies"] if not each.startswith("apache-airflow")}
    wanted = list(extras)
    for extra in wanted:
        if extra not in known:
            raise SystemExit(f"no extra {extra!r}: there are {', '.join(known)}")
        for each in known[extra]:
            own = re.fullmatch(r"airflow-ml\[(.*)\]", each)
            if own:
                wanted += [name for name in own[1].split(",") if name not in wanted]
            else:
                found.add(each)
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:], Path(__file__).resolve().parent.parent / "pyproject.toml")))
