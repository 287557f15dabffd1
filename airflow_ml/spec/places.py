"""Folders and addresses, as declarations name them: absolute, and without secrets."""

import re
from typing import Annotated
from urllib.parse import parse_qsl

from pydantic import AfterValidator

# As SQLAlchemy reads a user: a password goes on to the `@`, whatever is in it.
_USER_WITH_PASSWORD = re.compile(r"//[^:/@]*:[^@]*@")
_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)?$|pwd$|secret|token|credential|(^|[^a-z])(sig|auth)$|signature|authorization"
    r"|(api|access|account|shared|private)[-_]?key"
)
_SECRET_INSIDE = re.compile(r"(password|passwd|pwd|secret|token)\s*=", re.IGNORECASE)
"""In the value of a parameter: a whole ODBC connection string can be one."""
_S3 = re.compile(r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#@]+)?$")


def _folder(value: str) -> str:
    scheme, remote, _ = value.partition("://")
    if remote:
        # The rest may hold a password.
        raise ValueError(f"'{scheme}://…': only folders of this machine are supported yet; give an absolute path")
    if not value.startswith("/"):
        raise ValueError(f"{value!r} is relative; give an absolute path, because tasks start in many folders")
    return value.rstrip("/") or "/"


Folder = Annotated[str, AfterValidator(_folder)]
"""A folder of this machine."""


def _folder_or_bucket(value: str) -> str:
    scheme, remote, _ = value.partition("://")
    if not remote:
        if not value.startswith("/"):
            raise ValueError(f"{value!r} is relative; give an absolute path, because tasks start in many folders")
        return value.rstrip("/") or "/"
    if scheme != "s3":
        # The rest may hold a password.
        raise ValueError(f"'{scheme}://…' is neither a folder nor S3; give an absolute path, or s3://bucket/prefix")
    if not _S3.match(value.rstrip("/")):
        raise ValueError("'s3://…' is no bucket and prefix; write s3://bucket/prefix, with credentials elsewhere")
    return value.rstrip("/")


FolderOrBucket = Annotated[str, AfterValidator(_folder_or_bucket)]
"""A folder of this machine, or ``s3://bucket/prefix``."""


def _without_secret(value: str) -> str:
    """Refuse an address that holds a secret: it would stand in requests, logs, links and error messages."""
    _, _, query = value.partition("?")
    pairs = parse_qsl(query.replace("#", "&").replace(";", "&"), keep_blank_values=False)
    named = [name for name, given in pairs if _SECRET_NAME.search(name.lower()) or _SECRET_INSIDE.search(given)]
    if named or _USER_WITH_PASSWORD.search(value):
        what = f"a secret in its parameter {named[0]!r}" if named else "a password"
        raise ValueError(f"the address holds {what}; put credentials into a connection, and name it in `connections`")
    return value


Address = Annotated[str, AfterValidator(_without_secret)]
"""A server's address or a URI, without credentials."""
