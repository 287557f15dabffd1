"""The lines of a job: ``LEVEL text``, as its process writes them, and without secrets, as they are shown."""

import logging
from collections.abc import Iterable

_SHOWN = {"WARNING": logging.WARNING, "ERROR": logging.ERROR, "CRITICAL": logging.ERROR}
_PLAIN = ("INFO", "DEBUG")


def split_level(line: str) -> tuple[int, str]:
    """Level of a line, and its text; a line without a level is information."""
    level, _, text = line.partition(" ")
    if level in _SHOWN:
        return _SHOWN[level], text
    return logging.INFO, text if level in _PLAIN else f"{level} {text}".rstrip()


def masked(line: str, secrets: Iterable[str]) -> str:
    """A log line without secrets.

    Airflow masks what it stores; the copy that goes to the scheduler's standard output it does not.
    """
    for secret in secrets:
        line = line.replace(secret, "***") if secret else line
    return line
