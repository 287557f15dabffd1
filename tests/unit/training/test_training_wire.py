"""Messages between pods: whoever does not know the key, or changes a line, is not heard."""

import asyncio

import pytest

from airflow_ml.training.wire import LONGEST, Stranger, answer, ask

KEY = b"the key of the job"


async def conversation(asking_key=KEY, between=lambda line, number: line):
    """Both ends of a connection through somebody who may change the lines of who asks."""
    results = asyncio.Queue()

    async def served(reader, writer):
        try:
            results.put_nowait(await answer(reader, writer, KEY))
        except Stranger as error:
            results.put_nowait(error)
            writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0, limit=LONGEST)

    async def passing(reader, writer):
        there_reader, there_writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=LONGEST)

        async def forth():
            number = 0
            while line := await reader.readline():
                there_writer.write(between(line, number))
                number += 1
            there_writer.close()

        async def back():
            while line := await there_reader.readline():
                writer.write(line)
            writer.close()

        await asyncio.gather(forth(), back())

    middle = await asyncio.start_server(passing, "127.0.0.1", 0, limit=LONGEST)
    reader, writer = await asyncio.open_connection(*middle.sockets[0].getsockname(), limit=LONGEST)
    try:
        asking = await asyncio.wait_for(ask(reader, writer, asking_key), 5)
    except Stranger as error:
        asking = error
        writer.close()
    return asking, await asyncio.wait_for(results.get(), 5)


def test_messages_arrive_in_both_directions_and_in_their_order():
    async def run():
        one, other = await conversation()
        for number in range(3):
            await one.send({"number": number})
            await other.send({"text": "ä\n" * 100_000})
        assert [await other.receive() for _ in range(3)] == [{"number": number} for number in range(3)]
        for _ in range(3):
            assert (await one.receive())["text"].startswith("ä\n")
        one.close()
        assert await other.receive() is None

    asyncio.run(run())


def test_who_does_not_know_the_key_is_not_heard():
    async def run():
        one, other = await conversation(asking_key=b"another key")
        assert isinstance(one, Stranger)
        assert isinstance(other, Stranger)

    asyncio.run(run())


async def hear(channel, heard):
    while True:
        heard.append(await channel.receive())


@pytest.mark.parametrize(
    "between",
    [
        lambda line, number: line.replace(b"1000", b"9000"),
        lambda line, number: line + line if number == 1 else line,  # said again
        lambda line, number: b"" if number == 1 else line,  # left out
    ],
    ids=["changed", "repeated", "left out"],
)
def test_a_line_that_was_changed_repeated_or_left_out_is_noticed(between):
    async def run():
        one, other = await conversation(between=between)
        for _ in range(3):
            await one.send({"amount": 1000})
        heard = []
        with pytest.raises(Stranger, match="not what was sent"):
            await hear(other, heard)
        assert all(message == {"amount": 1000} for message in heard)

    asyncio.run(run())
