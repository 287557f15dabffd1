"""S3 as every AWS client is told of it, and its errors in our words.

Credentials, region and endpoint come from the environment: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_REGION``, ``AWS_ENDPOINT_URL``, a web identity or the machine's role. Never from a platform or a request.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow_ml.lifecycle.errors import AirflowMLError

SCHEME = "s3://"
_SAID = 300


def filesystem() -> Any:
    """A pyarrow filesystem of the buckets that this process may reach."""
    from pyarrow.fs import S3FileSystem

    given: dict[str, Any] = {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if region:
        given["region"] = region
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        given |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
    return S3FileSystem(**given, connect_timeout=10.0, request_timeout=60.0)


@contextmanager
def told(where: str, error: type[AirflowMLError]) -> Iterator[None]:
    """Raise what S3 says as an error of ours.

    Args:
        where: URI of what is asked for.
        error: Its class.
    """
    try:
        yield
    except OSError as raised:
        said = " ".join(str(raised).split())
        raise error(
            f"S3 does not do it: {said[:_SAID]}",
            where,
            "look at the bucket's name and rights, AWS_REGION and AWS_ENDPOINT_URL; then retry",
        ) from raised
