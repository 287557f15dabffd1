"""A real mail server on loopback that keeps what it is sent."""

import email
import email.policy
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage

from aiosmtpd.controller import Controller

PLAIN = {"disable_tls": True, "disable_ssl": True}


class Mailbox:
    """What has arrived, oldest first.

    Attributes:
        mails: The messages.
        connection: Airflow's connection to the server, as JSON.
    """

    def __init__(self, port: int) -> None:
        self.mails: list[EmailMessage] = []
        self.port = port
        self.connection = json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": PLAIN})

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """One message, as aiosmtpd hands it over."""
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


@contextmanager
def mail_server() -> Iterator[Mailbox]:
    """A server on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    box = Mailbox(port)
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


def body(mail: EmailMessage) -> str:
    """The HTML that a mail client shows."""
    part = mail.get_body(("html",))
    assert part is not None
    return part.get_content()
