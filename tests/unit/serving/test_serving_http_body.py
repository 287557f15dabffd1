"""Bodies as clients send them, and as nobody should."""

import gzip
import io

import pytest

from airflow_ml.serving.server.http_body import BodyError, read_body

CHUNKED = {"Transfer-Encoding": "chunked"}


def test_of_a_length_in_chunks_and_zipped():
    assert read_body({"Content-Length": "3"}, io.BytesIO(b"abcdef")) == b"abc"
    stream = io.BytesIO(b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /")
    assert read_body(CHUNKED, stream) == b"abc0123456789"
    assert stream.read() == b"GET /", "the next request is left"
    zipped = gzip.compress(b"abc" * 100)
    headers = {"Content-Length": str(len(zipped)), "Content-Encoding": "gzip"}
    assert read_body(headers, io.BytesIO(zipped)) == b"abc" * 100


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"", 411),
        ({"Content-Length": "-1"}, b"", 411),
        ({"Content-Length": "x"}, b"", 411),
        ({"Content-Length": "11"}, b"", 413),
        (CHUNKED, b"x\r\n", 400),
        (CHUNKED, b"-1\r\n", 400),
        (CHUNKED, b"", 400),
        (CHUNKED, b"6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n", 413),
        ({"Content-Length": "3", "Content-Encoding": "gzip"}, b"abc", 400),
        ({"Content-Length": "10", "Content-Encoding": "gzip"}, gzip.compress(b"abc", mtime=0)[:10], 400),
    ],
)
def test_what_cannot_be_read(headers, body, status):
    with pytest.raises(BodyError) as refused:
        read_body(headers, io.BytesIO(body), largest=10)
    assert refused.value.status == status


def test_a_little_gzip_that_becomes_a_lot_is_not_unpacked():
    bomb = gzip.compress(bytes(10_000_000))
    headers = {"Content-Length": str(len(bomb)), "Content-Encoding": "gzip"}
    with pytest.raises(BodyError) as refused:
        read_body(headers, io.BytesIO(bomb), largest=100_000)
    assert refused.value.status == 413
