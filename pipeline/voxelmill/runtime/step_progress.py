"""How far a step is while it runs: said by the task that takes it, heard by the program that waits for it.

In: the work that a step expects, and what is done of it. Out: calls of whoever listens to the run, in this
process or, as events of Dask's, in the program that submitted the task. Shows nothing, and fails nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from distributed import Client, get_worker

from voxelmill.storage.partial_files import RUN

SAY_EVERY_SECONDS = 2.0
"""A step says how far it is so often; a thousand workers at once, which all do, cost a scheduler little."""

TOPIC = "voxelmill-progress"

Listener = Callable[[str, float], None]

_listeners: dict[str, Listener] = {}


@dataclass
class _Step:
    """A step that this thread takes."""

    run: str
    name: str
    expected: int = 0
    done: int = 0
    said: float = field(default_factory=time.monotonic)
    is_long: bool = False
    """It said something, so it says its end too."""


_step: ContextVar[_Step | None] = ContextVar("step", default=None)


@contextmanager
def taking(run: str, name: str) -> Iterator[None]:
    """Let what is said meanwhile, in this thread, be said of a step."""
    token = _step.set(_Step(run, name))
    try:
        yield
    finally:
        _step.reset(token)


def expect(amount: int) -> None:
    """Say how much there is to do in this step, in any unit; bytes, mostly."""
    step = _step.get()
    if step is not None:
        step.expected, step.done, step.is_long = amount, 0, False


def did(amount: int) -> None:
    """Say that so much more of it is done."""
    step = _step.get()
    if step is None or not step.expected:
        return
    step.done += amount
    now, is_over = time.monotonic(), step.done >= step.expected
    if now - step.said >= SAY_EVERY_SECONDS or (is_over and step.is_long):
        step.said, step.is_long = now, True
        _say(step.run, step.name, min(1.0, step.done / step.expected))


def _say(run: str, name: str, part: float) -> None:
    if listener := _listeners.get(run):
        listener(name, part)
        return
    with suppress(ValueError):  # no worker: the step is taken by itself, and nobody waits
        get_worker().log_event(TOPIC, [run, name, part])


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Hear how far the steps of this run are: their names, and the part of each that is done.

    The listener is called from other threads.
    """
    run = RUN.get()
    _listeners[run] = listener
    try:
        yield
    finally:
        _listeners.pop(run, None)


def hear(client: Client) -> None:
    """Let what workers say come to this process."""
    client.subscribe_topic(TOPIC, _heard)


def _heard(event: tuple[float, Any]) -> None:
    run, name, part = event[1]
    if listener := _listeners.get(run):
        listener(name, part)
