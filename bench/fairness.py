"""Single steps beside a client that pushes sequences of 10,000 steps without pause."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from bench.load import Load, measure, observe
from bench.messages import STREAM, sessions, streamed, x
from bench.process import ProcessError, Server, listening
from bench.results import Measurement, Values
from bench.serving import statecell
from bench.setup import SHAPES, Setup

MODELS = ("1x128", "1x512")
SEQUENCE = 10_000
SESSIONS = 16
"""That step by single steps."""
HEAD_START = 1.0
"""Seconds after which the pushed sequences are under way."""


@contextmanager
def part(setup: Setup) -> Iterator[list[Measurement]]:
    with ExitStack() as stack:
        found = []
        for model in MODELS[:1] if setup.quick else MODELS:
            server = stack.enter_context(listening(statecell(model), setup.server_core))
            for name, run in (("alone", _single_steps), ("beside sequences", _beside)):
                found.append(Measurement(f"fairness/{model}/{name}", partial(run, model, server, setup)))
        yield found


def _single_steps(model: str, server: Server, setup: Setup) -> Values:
    size = SHAPES[model][1]
    inputs = x(1, 1, size)
    with sessions(server.address, model, SESSIONS) as ids:
        messages = [streamed([session_id], inputs) for session_id in ids]
        return measure(Load(STREAM, messages, 1, inputs.nbytes), server, replace(setup, seconds=2 * setup.seconds))


def _beside(model: str, server: Server, setup: Setup) -> Values:
    inputs = x(SEQUENCE, 1, SHAPES[model][1])
    with sessions(server.address, model, 1) as ids, ThreadPoolExecutor() as pool:
        messages = [streamed(ids, inputs)]
        # It shares the load's core but must not hold up the single steps there.
        load = Load(STREAM, messages, SEQUENCE, inputs.nbytes, stride=SEQUENCE, window=2, nice=19)
        pushing = pool.submit(observe, load, server, replace(setup, seconds=HEAD_START + 2 * setup.seconds + 1))
        time.sleep(HEAD_START)
        values = _single_steps(model, server, setup)
        if pushing.done() or pushing.result()["failures"]:
            raise ProcessError(f"the sequences were not pushed all the time: {pushing.result()}")
    return values
