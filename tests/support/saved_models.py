"""Small SavedModels made with TensorFlow itself: one with all three kinds of signature, and one that takes its time."""

from pathlib import Path
from typing import Any

#: What the slow model waits before each answer, in seconds.
SLOW_S = 1.0


def half_plus_two(folder: Path, plus: float = 2.0) -> Path:
    """``y = x / 2 + plus``, to predict, classify and regress; the latter two read ``tf.Example``.

    As many models in the wild, its input is no placeholder: a predict request replaces what an example would give.
    """
    from airflow_ml.serving.engines import tensorflow

    tf = tensorflow()
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        half, constant = v1.Variable(0.5, name="half"), v1.Variable(plus, name="constant")
        examples = v1.placeholder(tf.string, [None], name="tf_example")
        parsed = v1.parse_example(examples, {"x": v1.FixedLenFeature([1], tf.float32)})
        x = tf.identity(parsed["x"], name="x")
        y = tf.identity(half * x + constant, name="y")
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.utils.build_tensor_info

        def signature(method: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
            infos = [{name: info(tensor) for name, tensor in tensors.items()} for tensors in (inputs, outputs)]
            return v1.saved_model.build_signature_def(*infos, f"tensorflow/serving/{method}")

        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": signature("predict", {"x": x}, {"y": y}),
                "classify_x_to_y": signature("classify", {"inputs": examples}, {"scores": y}),
                "regress_x_to_y": signature("regress", {"inputs": examples}, {"outputs": y}),
            },
        )
        builder.save()
    return folder


def slow(folder: Path, seconds: float = SLOW_S) -> Path:
    """``y = x`` after a while, in which it needs no processor."""
    from airflow_ml.serving.engines import tensorflow

    tf = tensorflow()
    from tensorflow.python.data.experimental.ops.testing import sleep

    class Slow(tf.Module):  # type: ignore[misc, name-defined]
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def serve(self, x: Any) -> dict[str, Any]:
            waited = tf.data.Dataset.range(1).apply(sleep(int(seconds * 1e6))).get_single_element()
            return {"y": x + tf.cast(waited, tf.float32)}

    module = Slow()
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder
