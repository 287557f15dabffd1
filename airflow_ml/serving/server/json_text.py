"""A request's text as JSON: what is accepted, and the words for what is not, are those of rapidjson in TF Serving.

Python's own parser does the work. It is more patient than rapidjson with lone surrogates and with numbers that no
double holds, and has other words; offsets are bytes there and characters here.

Source: https://github.com/Tencent/rapidjson/blob/master/include/rapidjson/error/en.h
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from airflow_ml.serving.server.status import StatusError, invalid

#: The beginning of Python's words → rapidjson's.
_WORDS = (
    ("Expecting property name", "Missing a name for object member."),
    ("Illegal trailing comma before end of object", "Missing a name for object member."),
    ("Expecting ':'", "Missing a colon after a name of object member."),
    ("Extra data", "The document root must not be followed by other values."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid control character", "Invalid encoding in string."),
    ("Invalid \\escape", "Invalid escape character in string."),
    ("Invalid \\uXXXX", "Incorrect hex digit after \\u escape in string."),
)
_COMMA = {
    "{": "Missing a comma or } after an object member.",
    "[": "Missing a comma or ] after an array element.",
}
_TOO_BIG = "Number too big to be stored in double."

#: Where a number may be too big. Nearly no text has one, and then each number of it is looked at.
_PERHAPS_BIG = re.compile(r"\d[eE]\+?\d{2}|(?<!\d)\d{300}")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)


def load(body: bytes) -> Any:
    """The value of a text in UTF-8; NaN and Infinity are allowed, as in TF Serving.

    Raises:
        StatusError: it is no JSON.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _error("Invalid encoding in string.", error.start) from error
    if "\\u" in text:
        _check_surrogates(text)
    try:
        if _PERHAPS_BIG.search(text) is None:
            return json.loads(text)
        return json.loads(text, parse_float=_float, parse_int=_int)
    except json.JSONDecodeError as error:
        raise _error(_words(error, text), len(text[: error.pos].encode())) from error
    except _TooBig as error:
        raise _error(_TOO_BIG, len(text[: text.find(str(error))].encode())) from error
    except RecursionError as error:
        raise invalid(f"JSON Parse error: {error}") from error


class _TooBig(Exception):
    pass


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _TooBig(digits)
    return value


def _int(digits: str) -> float:
    return int(digits) if len(digits) <= 20 else _float(digits)


def _check_surrogates(text: str) -> None:
    high = -1
    for escape in _ESCAPE.finditer(text):
        code = int(escape[1] or "0", 16)
        if high >= 0:
            if not (0xDC00 <= code < 0xE000 and escape.start() == high + 6):
                break
            high = -1
        elif 0xD800 <= code < 0xDC00:
            high = escape.start()
        elif 0xDC00 <= code < 0xE000:
            high = escape.start()
            break
    if high >= 0:
        raise _error("The surrogate pair in string is invalid.", len(text[:high].encode()))


def _words(error: json.JSONDecodeError, text: str) -> str:
    if error.msg.startswith("Expecting ','"):
        return _COMMA[_container(text[: error.pos])]
    if not text.strip(" \t\r\n"):
        return "The document is empty."
    return next((words for start, words in _WORDS if error.msg.startswith(start)), "Invalid value.")


def _container(text: str) -> str:
    """The bracket that is open at the end of a text."""
    opened: list[str] = []
    for token in _STRING_OR_BRACKET.findall(text):
        if token in "{[":
            opened.append(token)
        elif token in "]}":
            opened.pop()
    return opened[-1]


def _error(words: str, offset: int) -> StatusError:
    return invalid(f"JSON Parse error: {words} at offset: {offset}")
