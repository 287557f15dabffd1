"""TensorFlow Lite models, served where a flag prefers them."""

import numpy as np
import pytest

from airflow_ml.serving.client import connect
from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.errors import ModelNotServed
from airflow_ml.serving.server import config
from airflow_ml.serving.server.core import Core
from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.server.grpc_api import GrpcServer
from tests.contract.conftest import WAIT
from tests.support.saved_models import half_plus_two

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def converted():
    """``y = x / 2 + 3``, with a signature and without one."""
    tf = tensorflow()

    class Half(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def serve(self, x):
            return {"y": x / 2 + 3}

    half = Half()
    function = half.serve.get_concrete_function()
    return {
        "signed": tf.lite.TFLiteConverter.from_concrete_functions([function], half).convert(),
        "bare": tf.lite.TFLiteConverter.from_concrete_functions([function]).convert(),
    }


def test_a_lite_model_is_preferred_where_there_is_one(tmp_path, converted):
    for name in ("signed", "bare", "broken", "none"):
        half_plus_two(tmp_path / name / "1")
    for name, content in {**converted, "broken": b"not a model"}.items():
        (tmp_path / name / "1" / "model.tflite").write_bytes(content)
    flags = Flags(port=0, prefer_tflite_model=True, file_system_poll_wait_seconds=0, max_num_load_retries=0)
    core = Core(flags)
    try:
        for name in ("signed", "bare", "none"):
            core.reload(config.single(name, str(tmp_path / name)), timeout=WAIT)
            server = GrpcServer(core, flags)
            with connect(f"grpc://127.0.0.1:{server.port}") as client:
                assert client.metadata(name).inputs == {"x": "float32"}
                for x in ([2.0], [2.0, 4.0]):
                    (found,) = client.predict(name, {"x": x}).outputs.values()
                    np.testing.assert_allclose(found, np.array(x) / 2 + (2 if name == "none" else 3))
                with pytest.raises(ModelNotServed):
                    client.predict("broken", {"x": [1.0]})
            server.stop(0)
        with pytest.raises(Exception, match="TensorFlow Lite cannot load the model"):
            core.reload(config.single("broken", str(tmp_path / "broken")), timeout=WAIT)
    finally:
        core.close()
