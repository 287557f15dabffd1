"""The README's commands without Airflow: stages that exist, each after those whose results it needs."""

import re
from pathlib import Path

from airflow_ml.stages.runner import STAGES

README = Path(__file__).parents[3] / "README.md"

NEEDS = {
    "validate": {"ingest"},
    "features": {"ingest_outcomes", "validate"},
    "training_set": {"features", "ingest_outcomes"},
    "tune": {"training_set"},
    "train": {"training_set"},
    "evaluate": {"train"},
    "export": {"train"},
    "gates": {"evaluate", "export"},
    "register": {"gates"},
    "release": {"register"},
    "rollout": {"register"},
    "score": {"features", "release"},
    "feedback": {"score", "ingest_outcomes"},
    "monitor": {"feedback"},
    "decide": {"monitor"},
}


def test_the_stages_of_the_readme_can_be_run_in_its_order():
    section = README.read_text(encoding="utf-8").partition("\n## Without Airflow\n")[2].partition("\n## ")[0]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block, "there is a block of commands"
    commands = re.findall(r"^airflow-ml run (\w+) (\w+) --from (\S+) --to (\S+)", block[1], re.MULTILINE)
    assert len(commands) == block[1].count("airflow-ml run ") >= 6
    done: set[str] = set()
    for stage, model, *_ in commands:
        assert stage in STAGES
        assert model == "flights"
        assert NEEDS.get(stage, set()) <= done, f"{stage} comes too early"
        done.add(stage)
    assert {"register", "release"} <= done, "it ends with a model in production"
    serve = block[1].index("\nairflow-ml serve &")
    assert serve < block[1].index("airflow-ml run release"), "a release needs the server"
    assert len({tuple(window) for _, _, *window in commands}) == 1, "all are of one window"


def test_the_readme_names_every_stage_in_order():
    section = README.read_text(encoding="utf-8").partition("The stages are ")[2].partition(". ")[0]
    assert tuple(re.findall(r"`(\w+)`", section)) == STAGES
    assert set(NEEDS) | {"ingest", "ingest_outcomes"} == set(STAGES)
