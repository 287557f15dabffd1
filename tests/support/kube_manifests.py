"""The manifests that users apply, as values."""

from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "docker" / "kubernetes"
FILES = ("tf-serving-config.yaml", "serving-role.yaml", "tf-serving.yaml", "gateway.yaml")


def objects(name):
    return [each for each in yaml.safe_load_all((FOLDER / name).read_text()) if each]


def one(name, kind):
    (found,) = [each for each in objects(name) if each["kind"] == kind]
    return found
