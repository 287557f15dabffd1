"""Publishing and the config file: one rename each, under a lock, and never a foreign model touched."""

import multiprocessing
from pathlib import Path

import pytest

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.deployment import ModelConfigFile, publish
from airflow_ml.serving.files import tree_sha256


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    folder = tmp_path / "saved_model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base"


def test_publish_is_idempotent_and_a_version_never_changes(saved_model, base):
    target = publish(saved_model, base, "m", 3)
    assert target == base / "m" / "3"
    assert tree_sha256(target) == tree_sha256(saved_model)
    before = (target / "saved_model.pb").stat().st_ino
    assert publish(saved_model, base, "m", 3) == target
    assert (target / "saved_model.pb").stat().st_ino == before
    (saved_model / "saved_model.pb").write_bytes(b"other graph")
    with pytest.raises(ServingError, match="other content"):
        publish(saved_model, base, "m", 3)


def test_what_a_killed_publish_left_is_no_version_and_no_hindrance(saved_model, base):
    staging = base / "m" / ".staging-3"
    staging.mkdir(parents=True)
    (staging / "half").write_bytes(b"")
    target = publish(saved_model, base, "m", 3)
    assert sorted(p.name for p in target.iterdir()) == ["saved_model.pb", "variables"]
    assert not staging.exists()


def test_tree_hash_sees_names_contents_and_borders(tmp_path):
    def tree(**files: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
        return tree_sha256(folder)

    assert tree(a="1", b="2") == tree(b="2", a="1")
    assert len({tree(a="12"), tree(a="1"), tree(b="12"), tree(a="1", b="2"), tree(ab="12"), tree()}) == 6


def test_two_writes_and_a_label(saved_model, base):
    config = ModelConfigFile(base)
    assert config.create().read_text() == "model_config_list {\n}\n"
    with pytest.raises(ServingError, match="not published"):
        config.ensure_versions("m", [1])
    publish(saved_model, base, "m", 1)
    publish(saved_model, base, "m", 2)
    with pytest.raises(ServingError, match="not served"):
        config.set_label("m", "stable", 1)
    config.ensure_versions("m", [1])
    config.set_label("m", "stable", 1)
    config.ensure_versions("m", [2, 1, 2])
    assert (config.versions("m"), config.labels("m")) == ([1, 2], {"stable": 1})
    with pytest.raises(ServingError, match="labels of m point to"):
        config.ensure_versions("m", [2])
    config.set_label("m", "stable", 2)
    config.ensure_versions("m", [2])
    assert (config.versions("m"), config.labels("m")) == ([2], {"stable": 2})
    config.remove("m")
    assert config.models() == []


def test_a_foreign_entry_keeps_every_field(saved_model, base):
    config = ModelConfigFile(base)
    config.create()
    foreign = (
        'config { name: "theirs" base_path: "/srv/theirs" model_platform: "tensorflow" '
        'model_version_policy { latest { num_versions: 3 } } version_labels { key: "gold" value: 7 } }'
    )
    config.path.write_text(f"model_config_list {{ {foreign} }}")
    publish(saved_model, base, "ours", 1)
    config.ensure_versions("ours", [1])
    config.set_label("ours", "stable", 1)
    config.remove("ours")
    from airflow_ml.serving.server.config import models_of, parse

    models = models_of(parse(config.path.read_text()))
    assert set(models) == {"theirs"}
    assert (models["theirs"].policy.latest, models["theirs"].labels) == (3, {"gold": 7})


def test_a_broken_file_is_left_alone(base):
    config = ModelConfigFile(base)
    config.create()
    config.path.write_text("model_config_list { config {")
    with pytest.raises(ServingError, match="repair it by hand"):
        config.remove("m")
    assert config.path.read_text() == "model_config_list { config {"


def _serve(base: str, name: str) -> None:
    (Path(base) / name / "1").mkdir(parents=True, exist_ok=True)
    ModelConfigFile(Path(base)).ensure_versions(name, [1])


def test_many_writers_lose_nothing(base):
    names = [f"m{i}" for i in range(8)]
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_serve, args=(str(base), name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(ModelConfigFile(base).models()) == names
