"""Errors as the protocol knows them: a canonical code, a message, and the HTTP status that TF Serving gives the code.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/model_servers/http_server.cc
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Canonical status codes, numbered as in gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


class StatusError(Exception):
    """A request cannot be answered.

    Args:
        code: Canonical code.
        message: For the client, in TF Serving's words where it has some.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> StatusError:
    """The request itself is wrong."""
    return StatusError(Code.INVALID_ARGUMENT, message)


def of_exception(error: BaseException) -> StatusError:
    """Any error as a status: TensorFlow's keep their code, others are internal."""
    if isinstance(error, StatusError):
        return error
    code = getattr(error, "error_code", None)  # tf.errors.OpError
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(code, int) and code in set(Code):
        lines = [line.strip() for line in str(getattr(error, "message", first)).splitlines() if line.strip()]
        kept = [line for line in lines if line != "Graph execution error:" and not line.startswith("[[{{")]
        return StatusError(Code(code), " ".join(kept) or first)
    return StatusError(Code.INTERNAL, f"{type(error).__name__}: {first}")
