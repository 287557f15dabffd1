"""How a connection to a server is protected, and who asks: TLS, mutual TLS, a token.

A certificate or key is PEM text, or the path of a file with it: a secret store hands over texts, a mounted volume has
files.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml.lifecycle.errors import ServingError

if TYPE_CHECKING:
    import grpc

_PEM = "-----BEGIN"


@dataclass(frozen=True)
class Security:
    """What a client needs besides the address. Secrets are not part of its text.

    Attributes:
        ca: Certificates of the authorities that are trusted; empty for those of the machine.
        certificate: The client's own, for mutual TLS; with `key`.
        key: Private key of `certificate`.
        token: Sent with every call as ``authorization: Bearer <token>``.
    """

    ca: str = ""
    certificate: str = ""
    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            missing = "key" if self.certificate else "certificate"
            raise ServingError(
                f"mutual TLS needs a certificate and its key; the {missing} is missing", "", f"give the {missing}, too"
            )

    @property
    def tls(self) -> bool:
        """Whether it says anything that has a meaning with TLS only."""
        return bool(self.ca or self.certificate)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of a gRPC call, headers of a request: names in lower case."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a gRPC channel.

        Raises:
            ServingError: a file cannot be read.
        """
        import grpc

        return grpc.ssl_channel_credentials(
            root_certificates=pem(self.ca, "CA certificate"),
            private_key=pem(self.key, "client key"),
            certificate_chain=pem(self.certificate, "client certificate"),
        )

    def ssl_context(self) -> ssl.SSLContext:
        """For HTTPS.

        Raises:
            ServingError: a file cannot be read, or holds no certificate.
        """
        ca = pem(self.ca, "CA certificate")
        try:
            context = ssl.create_default_context(cadata=ca.decode() if ca else None)
            if self.certificate:
                _load_chain(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError) as error:
            raise ServingError(
                f"the certificates cannot be used: {error}", "", "give PEM: text, or the path of a file"
            ) from error
        return context


def pem(value: str, what: str) -> bytes | None:
    """PEM text as given, or from the file of that name; ``None`` if empty.

    Raises:
        ServingError: the file cannot be read.
    """
    if not value:
        return None
    if _PEM in value:
        return value.encode()
    try:
        return Path(value).read_bytes()
    except OSError as error:
        raise ServingError(
            f"the {what} cannot be read: {error.strerror}", value, "give PEM text, or the path of a readable file"
        ) from error


def _load_chain(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Python reads a client's certificate from files only; texts pass through a file that only we can read."""
    with tempfile.TemporaryDirectory() as folder:
        paths: list[Path] = []
        for name, value in (("certificate", certificate), ("key", key)):
            path = Path(folder) / name
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(pem(value, f"client {name}") or b"")
            paths.append(path)
        context.load_cert_chain(certfile=paths[0], keyfile=paths[1])
