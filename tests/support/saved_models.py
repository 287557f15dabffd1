"""Small SavedModels made with TensorFlow itself: all kinds of signatures, rare types, and a slow one."""

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


def kinds(folder: Path) -> Path:
    """What TensorFlow 2 makes of its own: signatures that are all declared as ``predict``; and rarer types."""
    from airflow_ml.serving.engines import tensorflow

    tf = tensorflow()

    def of(name: str, *shape: int | None, dtype: Any = tf.float32) -> Any:
        return tf.function(input_signature=[tf.TensorSpec(shape, dtype, name=name)])

    class Kinds(tf.Module):  # type: ignore[misc, name-defined]
        def _x(self, examples: Any) -> Any:
            return tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]

        @of("inputs", None, dtype=tf.string)
        def regress(self, inputs: Any) -> dict[str, Any]:
            return {"outputs": self._x(inputs) / 2 + 2}

        @of("inputs", None, dtype=tf.string)
        def classify(self, inputs: Any) -> dict[str, Any]:
            return {"scores": self._x(inputs) / 2 + 2}

        @of("x", None, None)
        def matrix(self, x: Any) -> dict[str, Any]:
            return {"y": x}

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.int32, name="n"), tf.TensorSpec([None], tf.float64, name="d")]
        )
        def numbers(self, n: Any, d: Any) -> dict[str, Any]:
            return {"n": n + 1, "d": d + 1}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.float16, name="h"),
                tf.TensorSpec([None], tf.bfloat16, name="b"),
                tf.TensorSpec([None], tf.complex64, name="c"),
            ]
        )
        def rare(self, h: Any, b: Any, c: Any) -> dict[str, Any]:
            return {"h": h * 2, "b": b * 2, "c": c * 2}

    module = Kinds()
    signatures = {"serving_default": module.matrix, "regress_x_to_y": module.regress}
    signatures |= {"classify_x_to_y": module.classify, "numbers": module.numbers, "rare": module.rare}
    tf.saved_model.save(module, str(folder), signatures=signatures)
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
