"""Steps as messages, and messages against outputs over one stream: in turn, or overlapping with the server's work."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

from statecell.v1 import tensor_pb2

from statecell_client.layout import Inputs, Layout
from statecell_client.step_stream import StepStream

Replies = AsyncGenerator[tuple[Inputs, Sequence[tensor_pb2.Tensor]]]
"""Each message with its outputs."""


async def each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any]:
    """The items of either kind of iterable, pulled one by one."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def messages(layout: Layout, items: AsyncIterator[Any], steps: int) -> AsyncIterator[Inputs]:
    """The steps as messages of up to `steps` of them, pulled as each message is asked for."""
    several: list[Inputs] = []
    failure = None
    try:
        async for item in items:
            several.append(layout.step(None, item) if isinstance(item, Mapping) else layout.step(item, {}))
            if len(several) == steps or not layout.stacks:
                yield layout.stack(several)
                several = []
    except Exception as error:  # comes after the answers to what came before it
        failure = error
    if several:
        yield layout.stack(several)
    if failure is not None:
        raise failure


async def in_turn(stream: StepStream, source: AsyncIterator[Inputs]) -> Replies:
    """Pulls a message when the outputs of the one before have been taken."""
    with closing(stream):
        async for message in source:
            await stream.send(message.pack())
            yield message, await stream.receive()


async def overlapping(stream: StepStream, source: AsyncIterator[Inputs]) -> Replies:
    """Pulls the next message while the server works, and sends it before the outputs of this one are taken."""
    waiting: list[Inputs] = []  # at most one
    failure = None
    with closing(stream):
        try:
            async for message in source:
                replies = [(sent, await stream.receive()) for sent in waiting]
                await stream.send(message.pack())
                waiting = [message]
                for reply in replies:
                    yield reply
        except GeneratorExit:
            if stream.waiting:  # so that it is known where the session stands
                await stream.receive()
            raise
        except Exception as error:  # of the source: comes after the outputs of what was sent before it
            failure = error
        if stream.waiting:
            yield waiting[0], await stream.receive()
        if failure is not None:
            raise failure
