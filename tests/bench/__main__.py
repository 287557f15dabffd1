"""``python -m tests.bench [NAME ...]``: run the named benches, or all, and write ``build/bench/<name>.json``."""

import argparse
import importlib
import sys
import time

from tests.bench.report import text

BENCHES = ("parse", "gateway", "rollout", "scoring", "ddp", "overhead", "serving", "quality")
"""Modules of this package with a ``run() -> Report``, the quick ones first."""

CLUSTER_BENCHES = ("waiting", "pods")
"""Those that need a cluster: by name only."""


def main(arguments: list[str] | None = None) -> int:
    known = (*BENCHES, *CLUSTER_BENCHES)
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}; without, all but those of a cluster"
    )
    names = parser.parse_args(arguments).names or list(BENCHES)
    unknown = sorted(set(names) - set(known))
    if unknown:
        parser.error(f"no bench {', '.join(unknown)}; choose of {', '.join(known)}")
    for name in names:
        print(f"== {name}: {_purpose(name)}", flush=True)
        began = time.perf_counter()
        report = importlib.import_module(f"tests.bench.{name}").run()
        for table in report.tables:
            print(f"\n{text(table)}")
        print("".join(f"\n  {note}" for note in report.notes))
        print(f"\n  {report.write()}, measured in {time.perf_counter() - began:.0f} s\n", flush=True)
    return 0


def _purpose(name: str) -> str:
    return str(importlib.import_module(f"tests.bench.{name}").__doc__).partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
