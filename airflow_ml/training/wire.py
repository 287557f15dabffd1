"""Messages between the pods of one job: JSON lines, from somebody who knows the job's key, each of them proven.

Both sides prove the key with fresh numbers of the other one, so nothing that was overheard can be said again; a line
carries a MAC over its direction, its place in the conversation and its text. What arrives is parsed as JSON and nothing
else. The text itself is no secret: it holds paths, parameters and metrics.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
from typing import Any

Message = dict[str, Any]

LONGEST = 4 << 20
"""Bytes of a line."""
_HANDSHAKE_S = 10.0
_ASKING, _ANSWERING = b"asking", b"answering"


class Stranger(Exception):
    """Who spoke does not know the key, or changed a line."""


class Channel:
    """One conversation, proven.

    Args:
        reader: Of the connection.
        writer: Of the connection.
        session: Key of this conversation.
        asking: Whether this side opened the connection.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: bytes, asking: bool
    ) -> None:
        self._reader, self._writer, self._session = reader, writer, session
        self._mine, self._theirs = (_ASKING, _ANSWERING) if asking else (_ANSWERING, _ASKING)
        self._sent = self._received = 0

    async def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            ConnectionError: The other side is gone.
        """
        text = json.dumps(message).encode()
        self._writer.write(self._mac(self._mine, self._sent, text) + b" " + text + b"\n")
        self._sent += 1
        await self._writer.drain()

    async def receive(self) -> Message | None:
        """The next message; None when the other side has closed the connection.

        Raises:
            Stranger: It is not the next one of whom we speak with.
        """
        try:
            line = await self._reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except asyncio.LimitOverrunError as error:
            raise Stranger("a line is too long") from error
        mac, _, text = line[:-1].partition(b" ")
        if not hmac.compare_digest(mac, self._mac(self._theirs, self._received, text)):
            raise Stranger("a line is not what was sent")
        self._received += 1
        return json.loads(text)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def _mac(self, direction: bytes, number: int, text: bytes) -> bytes:
        return _proof(self._session, direction, str(number).encode(), text)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> Channel:
    """A conversation that the other side opened.

    Raises:
        Stranger: It does not know the key, or says nothing.
    """
    mine = _nonce()
    writer.write(mine + b"\n")
    theirs, proof = await _words(reader, 2)
    if not hmac.compare_digest(proof, _proof(key, _ASKING, mine, theirs)):
        raise Stranger("the other side does not know the job's key")
    writer.write(_proof(key, _ANSWERING, theirs, mine) + b"\n")
    return Channel(reader, writer, _session(key, mine, theirs), asking=False)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> Channel:
    """A conversation that this side opened.

    Raises:
        Stranger: The other side does not know the key, or says nothing.
    """
    (theirs,) = await _words(reader, 1)
    mine = _nonce()
    writer.write(mine + b" " + _proof(key, _ASKING, theirs, mine) + b"\n")
    (proof,) = await _words(reader, 1)
    if not hmac.compare_digest(proof, _proof(key, _ANSWERING, mine, theirs)):
        raise Stranger("the other side does not know the job's key")
    return Channel(reader, writer, _session(key, theirs, mine), asking=True)


async def _words(reader: asyncio.StreamReader, number: int) -> list[bytes]:
    try:
        line = await asyncio.wait_for(reader.readuntil(b"\n"), _HANDSHAKE_S)
    except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
        raise Stranger("the other side says nothing that we understand") from error
    words = line.split()
    if len(words) != number:
        raise Stranger("the other side says nothing that we understand")
    return words


def _nonce() -> bytes:
    return secrets.token_hex(32).encode()


def _session(key: bytes, answering: bytes, asking: bytes) -> bytes:
    return _proof(key, b"session", answering, asking)


def _proof(key: bytes, *parts: bytes) -> bytes:
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        # With lengths, so that no two lists of parts read the same.
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest().encode()
