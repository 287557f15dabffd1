"""Tensors as messages: every type in both forms, and values that stand for others."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

from airflow_ml.serving.protos.messages import DATA_TYPES, TensorProto
from airflow_ml.serving.protos.tensors import MOST_BYTES, StandsForMore, to_field_proto, to_numpy, to_proto


@pytest.mark.parametrize(
    "kind",
    ["float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool", "float16",
     bfloat16, "complex64", "complex128"],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0, 2)])
def test_there_and_back(kind, shape):
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(kind)
    if array.dtype.kind == "c":
        array = array + array.dtype.type(0.5j)
    fields = TensorProto()
    to_field_proto(array, fields)
    for proto in (to_proto(array), fields):
        found = to_numpy(proto)
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tolist() == array.tolist()


def test_many_values_in_fields():
    array = np.arange(200_001, dtype=np.float32)
    proto = TensorProto()
    to_field_proto(array, proto)
    assert np.array_equal(to_numpy(proto), array)


def claims(*sizes, values=(1.0, 2.0)):
    proto = TensorProto(dtype=DATA_TYPES["DT_FLOAT"], float_val=values)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    return proto


def test_the_last_value_stands_for_the_rest():
    assert to_numpy(claims(2, 3)).tolist() == [[1, 2, 2], [2, 2, 2]]
    text = TensorProto(dtype=DATA_TYPES["DT_STRING"], string_val=[b"a"])
    text.tensor_shape.dim.add(size=3)
    assert to_numpy(text).tolist() == [b"a"] * 3


@pytest.mark.parametrize("sizes", [(400_000_000,), (10**10,), (2**62, 2**62), (MOST_BYTES // 4 + 1,)])
def test_it_does_not_stand_for_everything(sizes):
    with pytest.raises(ValueError, match="stands for") as refused:
        to_numpy(claims(*sizes))
    assert not isinstance(refused.value, StandsForMore)


def test_a_long_string_stands_for_less():
    proto = TensorProto(dtype=DATA_TYPES["DT_STRING"], string_val=[bytes(2**20)])
    proto.tensor_shape.dim.add(size=100)
    with pytest.raises(ValueError, match="stands for"):
        to_numpy(proto)


def test_who_cannot_wait_is_told():
    with pytest.raises(StandsForMore):
        to_numpy(claims(1000), most=3999)
    assert to_numpy(claims(1000), most=4000).shape == (1000,)
    assert to_numpy(claims(2), most=0).tolist() == [1, 2]
