"""What a model server may answer instead of a prediction.

ServingError                  (airflow_ml.lifecycle.errors)
├── ServerUnreachable         nobody answers there
├── ServingTimeout            no answer within the deadline
│   └── ReplicasBehind        some replicas do not have what all should have; they are named
├── AccessRefused             no or a wrong token or certificate
├── ModelNotServed            unknown model, or version not loaded
├── RequestRefused            the request does not fit: signature, types, label, malformed
├── AnswerUnreadable          an answer that is none of the protocol, or of a type that we do not carry
├── ConfigHeld                another writer changes the servers' config
└── LeaseLost                 another writer took the config over; nothing was written
"""

from __future__ import annotations

from airflow_ml.lifecycle.errors import ServingError


class ServerUnreachable(ServingError):
    """Nobody answers at this address."""


class ServingTimeout(ServingError):
    """The server did not answer within the deadline."""


class AccessRefused(ServingError):
    """The server, or what stands before it, does not take who we are."""


class ModelNotServed(ServingError):
    """The server has no such model, or not this version of it."""


class RequestRefused(ServingError):
    """The request does not fit the model."""


class AnswerUnreadable(ServingError):
    """The server answered, and what it says cannot be read."""


class ReplicasBehind(ServingTimeout):
    """Some replicas do not have what all should have; the message names them, with what they said."""


class ConfigHeld(ServingError):
    """Another writer changes the servers' config."""


class LeaseLost(ServingError):
    """Another writer took the config over before we wrote it."""


_NOT_FOUND, _DEADLINE, _UNAVAILABLE = "NOT_FOUND", "DEADLINE_EXCEEDED", "UNAVAILABLE"
_ACCESS = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
_REFUSED = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED"}


def serving_error(code: str, message: str, where: str) -> ServingError:
    """The error for a canonical status code.

    Args:
        code: Its name, ``NOT_FOUND``.
        message: The server's words.
        where: Server, model and version.
    """
    message = message.removesuffix(".")
    if code == _NOT_FOUND:
        return ModelNotServed(message, where, "look at the model's status; publish the version or correct its name")
    if code == _DEADLINE:
        return ServingTimeout(message or "no answer in time", where, "raise the deadline, or look at the server's load")
    if code == _UNAVAILABLE:
        return ServerUnreachable(message, where, "check that the server runs and that the address is right")
    if code in _ACCESS:
        return AccessRefused(message or code, where, "correct the token or the certificates of the connection")
    if code in _REFUSED:
        return RequestRefused(message, where, "compare the request with the model's metadata")
    return ServingError(f"{code}: {message}", where, "look at the server's log")
