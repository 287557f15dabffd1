"""A trained network becomes a SavedModel of raw columns that says the same, or nothing is written."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from airflow_ml.lifecycle.errors import ExportRefused, InputError, ServingError
from airflow_ml.lifecycle.preprocessing import Preprocessing, Scaling, Vocabulary
from airflow_ml.serving.export import Parity, check_parity, export_saved_model, parity, torch_probability
from airflow_ml.serving.files import tree_sha256
from airflow_ml.serving.golden import GoldenRequest, read_golden, request_columns, write_golden
from airflow_ml.serving.scorer import SavedModelScorer
from tests.unit.serving.exported import network, raw_columns

pytestmark = pytest.mark.slow


def test_parity_on_rows_never_seen(exported):
    batches = [raw_columns(rows, seed=rows) for rows in (1, 2, 1000)]
    found = parity(exported.path, exported.module, exported.preprocessing, batches)
    assert found.rows == 1003
    assert found.max_abs_diff < 1e-6
    check_parity(found)


@pytest.mark.parametrize(
    "found", [Parity(max_abs_diff=0, rows=0), Parity(max_abs_diff=2e-5, rows=9), Parity(max_abs_diff=math.inf, rows=9)]
)
def test_parity_that_is_lost_is_refused(found):
    with pytest.raises(ExportRefused):
        check_parity(found)


def test_a_difference_that_is_not_a_number_is_infinite(exported):
    import torch

    class Broken(torch.nn.Module):
        def forward(self, categorical, numeric):
            return numeric.sum(1) * math.nan

    found = parity(exported.path, Broken(), exported.preprocessing, [raw_columns(4), raw_columns(4)])
    assert found.max_abs_diff == math.inf


def test_the_scorer_takes_what_tables_give_in_batches_of_any_size(exported):
    columns = exported.columns | {"not ours": np.zeros(500)}
    columns["distance"] = columns["distance"].astype(object)
    columns["distance"][3] = None
    missing = exported.columns | {"distance": np.where(np.arange(500) == 3, np.nan, exported.columns["distance"])}
    expected = torch_probability(exported.module, exported.preprocessing, missing)
    for batch_size in (1, 7, 500, 10_000):
        with SavedModelScorer(exported.path, batch_size) as scorer:
            rows = 20 if batch_size == 1 else 500
            found = scorer.predict({name: column[:rows] for name, column in columns.items()})
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:rows], atol=1e-6)


def test_whole_numbers_with_gaps_are_unknown_categories_everywhere(exported):
    with_gaps = exported.columns | {"hour": np.where(np.arange(500) % 3 == 0, np.nan, exported.columns["hour"])}
    sent = request_columns(exported.preprocessing, with_gaps)
    assert sent["hour"].dtype == np.int64
    expected = torch_probability(exported.module, exported.preprocessing, with_gaps)
    with SavedModelScorer(exported.path) as scorer:
        np.testing.assert_allclose(scorer.predict(with_gaps), expected, atol=1e-6)
        np.testing.assert_allclose(scorer.predict(sent), expected, atol=1e-6)


def test_the_scorer_names_what_does_not_fit(exported):
    with SavedModelScorer(exported.path) as scorer:
        assert scorer.predict({name: column[:0] for name, column in exported.columns.items()}).shape == (0,)
        with pytest.raises(ServingError, match="'wind'"):
            scorer.predict({name: exported.columns[name] for name in ("carrier", "hour", "distance")})
        with pytest.raises(ServingError, match="'wind'"):
            scorer.predict(exported.columns | {"wind": exported.columns["carrier"]})
    with pytest.raises(ServingError, match="cannot load"):
        SavedModelScorer(exported.path / "variables")


def test_an_unknown_operator_leaves_nothing_behind(tmp_path, exported):
    import torch

    class Odd(torch.nn.Module):
        def forward(self, categorical, numeric):
            return torch.special.bessel_j0(numeric).sum(1)

    with pytest.raises(ExportRefused, match=r"aten\.special_bessel_j0\.default"):
        export_saved_model(Odd(), exported.preprocessing, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("result", ["two", "dict", "wide"])
def test_a_network_that_gives_no_logit_is_refused(tmp_path, exported, result):
    import torch

    class Wrong(torch.nn.Module):
        def forward(self, categorical, numeric):
            return {"two": (numeric, numeric), "dict": {"a": numeric}, "wide": numeric}[result]

    with pytest.raises(ExportRefused, match="forward"):
        export_saved_model(Wrong(), exported.preprocessing, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_one_argument_is_a_dict_and_inputs_may_be_of_one_kind(tmp_path):
    import torch

    class Named(torch.nn.Module):
        def forward(self, inputs):
            return inputs["numeric"].sum(1, keepdim=True) + inputs["categorical"].sum(1, keepdim=True)

    only_numbers = Preprocessing(numeric=(Scaling(name="x", fill=1, mean=0, scale=2),))
    only_words = Preprocessing(categorical=(Vocabulary(name="c", tokens=("a",)), Vocabulary(name="d", tokens=())))
    for name, preprocessing in (("numbers", only_numbers), ("words", only_words)):
        signature = export_saved_model(Named(), preprocessing, tmp_path / name)
        assert set(signature.input_types) == set(preprocessing.columns)
        columns = {"x": np.array([1.0, np.nan]), "c": np.array(["a", "b"]), "d": np.array(["a", ""])}
        found = parity(tmp_path / name, Named(), preprocessing, [columns])
        assert found.max_abs_diff < 1e-6


def build_constant(module, preprocessing):
    """A builder: half for everybody."""
    from airflow_ml.serving.engines import tensorflow

    tf = tensorflow()

    class Constant(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")], autograph=False)
        def serving_default(self, x):
            return {"probability": tf.zeros_like(x) + 0.5}

    return Constant()


def test_a_builder_replaces_the_conversion(tmp_path):
    preprocessing = Preprocessing(numeric=(Scaling(name="x", fill=0, mean=0, scale=1),))
    builder = f"{__name__}:build_constant"
    signature = export_saved_model(None, preprocessing, tmp_path / "out", builder=builder)
    assert signature.conversion == "builder"
    with SavedModelScorer(tmp_path / "out") as scorer:
        assert scorer.predict({"x": np.zeros(3)}).tolist() == [0.5] * 3
    other = Preprocessing(numeric=(Scaling(name="y", fill=0, mean=0, scale=1),))
    with pytest.raises(ExportRefused, match=r"takes \['x'\]"):
        export_saved_model(None, other, tmp_path / "other", builder=builder)
    with pytest.raises(ExportRefused, match="cannot import the builder"):
        export_saved_model(None, other, tmp_path / "other", builder="no.such:thing")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_existing_folder_is_not_replaced(exported):
    before = tree_sha256(exported.path)
    with pytest.raises(ExportRefused, match="exists"):
        export_saved_model(exported.module, exported.preprocessing, exported.path)
    assert tree_sha256(exported.path) == before


def test_the_same_model_makes_the_same_bytes_here_and_in_a_fresh_process(tmp_path, exported):
    export_saved_model(exported.module, exported.preprocessing, tmp_path / "again", warmup=exported.golden[:2])
    assert tree_sha256(tmp_path / "again") == tree_sha256(exported.path)
    script = "import sys, pathlib; from tests.unit.serving.exported import make; make(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "fresh")], check=True)
    assert tree_sha256(tmp_path / "fresh") == tree_sha256(exported.path)


def test_two_models_loaded_eagerly_keep_their_own_vocabularies(tmp_path):
    import torch

    from airflow_ml.serving.engines import tensorflow

    class Place(torch.nn.Module):
        def forward(self, categorical, numeric):
            return torch.logit(categorical.sum(1) / 10)

    tf = tensorflow()
    answers = []
    for name, tokens in (("first", ("a", "b")), ("second", ("b", "a")), ("again", ("a", "b"))):
        preprocessing = Preprocessing(categorical=(Vocabulary(name="c", tokens=tokens),))
        export_saved_model(Place(), preprocessing, tmp_path / name)
        answers.append(tf.saved_model.load(str(tmp_path / name)).signatures["serving_default"])
    found = [answer(c=tf.constant(["a", "b", "z"]))["probability"].numpy() for answer in answers]
    np.testing.assert_allclose(found, [[0.1, 0.2, 0], [0.2, 0.1, 0], [0.1, 0.2, 0]], atol=1e-6)


def test_golden_requests_survive_their_file(tmp_path, exported):
    path = tmp_path / "golden.json"
    write_golden(path, exported.golden)
    read = read_golden(path)
    assert read == exported.golden
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    columns = {name: np.concatenate([g.columns()[name] for g in read]) for name in exported.preprocessing.columns}
    sent = request_columns(exported.preprocessing, {k: v[:32] for k, v in exported.columns.items()})
    for name, column in sent.items():
        np.testing.assert_array_equal(columns[name], column)
        assert columns[name].dtype == column.dtype
    path.write_text("[{}]")
    with pytest.raises(InputError, match="golden"):
        read_golden(path)
    with pytest.raises(ValueError, match="different lengths"):
        GoldenRequest(inputs={"x": [1.0]}, probability=[])


def test_training_mode_and_weights_are_left_as_they_were(tmp_path, exported):
    module = network(exported.preprocessing.cardinalities, 2).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export_saved_model(module, exported.preprocessing, tmp_path / "out")
    torch_probability(module, exported.preprocessing, exported.columns)
    assert module.training
    for name, tensor in module.state_dict().items():
        assert tensor.equal(before[name]), name
