"""The body of a request: of a given length, or in chunks; plain or gzip. Never more of it than is taken."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from email.message import Message
from io import BufferedIOBase

#: The longest body, in bytes, as gRPC's longest message.
LARGEST = 2**31 - 1

_LONGEST_LINE = 1024
_GZIP = zlib.MAX_WBITS | 16


class BodyError(Exception):
    """A body that cannot be read.

    Args:
        status: HTTP.
        message: For the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_body(headers: Mapping[str, str] | Message, stream: BufferedIOBase, largest: int = LARGEST) -> bytes:
    """Read a body to its end.

    Args:
        headers: Of the request; names in any case.
        stream: Behind them.
        largest: In bytes, also after decompression.

    Raises:
        BodyError: no length, a malformed chunk, no gzip, or more than `largest`.
    """
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        body = _chunks(stream, largest)
    else:
        length = headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise BodyError(411, "Content-Length is missing or not a length")
        body = stream.read(_within(int(length), largest))
    return _unzipped(body, largest) if headers.get("Content-Encoding", "").lower() == "gzip" else body


def _chunks(stream: BufferedIOBase, largest: int) -> bytes:
    parts: list[bytes] = []
    total = 0
    while True:
        size = stream.readline(_LONGEST_LINE).partition(b";")[0].strip()
        try:
            length = int(size, 16)
            if length < 0:
                raise ValueError(length)
        except ValueError as error:
            raise BodyError(400, "malformed chunk") from error
        if not length:
            break
        total = _within(total + length, largest)
        parts.append(stream.read(length))
        stream.readline(_LONGEST_LINE)
    while stream.readline(_LONGEST_LINE).strip():  # trailers
        pass
    return b"".join(parts)


def _within(length: int, largest: int) -> int:
    if length > largest:
        raise BodyError(413, f"a request of {length} bytes is larger than {largest}")
    return length


def _unzipped(body: bytes, largest: int) -> bytes:
    stream = zlib.decompressobj(_GZIP)
    try:
        plain = stream.decompress(body, largest + 1)
    except zlib.error as error:
        raise BodyError(400, f"the body is no gzip: {error}") from error
    _within(len(plain), largest)
    if not stream.eof:
        raise BodyError(400, "the body is no gzip: it ends early")
    return plain
