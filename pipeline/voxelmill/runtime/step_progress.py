"""The progress of a running step: reported by its task, received by the program that waits for it.

In: the amount of work of a step, and how much of it is done. Out: calls of the run's listener, directly in
this process, or through Dask's events in the program that submitted the task. Shows nothing, and never fails
a task.
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
"""Seconds between two reports of a step; the reports of a thousand workers cost a scheduler little."""

TOPIC = "voxelmill-progress"
"""Topic of Dask's events; an event is the run's id, the step's name, and the part done, 0 to 1."""

Listener = Callable[[str, float], None]
"""Takes the name of a step, and the part of it that is done, 0 to 1."""

_listeners: dict[str, Listener] = {}


@dataclass
class _Step:
    """The step that this thread runs."""

    run: str
    name: str
    expected: int = 0
    done: int = 0
    said: float = field(default_factory=time.monotonic)
    is_long: bool = False
    """Whether it has reported before, and so must report its end."""


_step: ContextVar[_Step | None] = ContextVar("step", default=None)


@contextmanager
def taking(run: str, name: str) -> Iterator[None]:
    """Attribute the reports of this thread to a step of a run, while the context lasts."""
    token = _step.set(_Step(run, name))
    try:
        yield
    finally:
        _step.reset(token)


def expect(amount: int) -> None:
    """State the amount of work of this step, in any unit, mostly bytes."""
    step = _step.get()
    if step is not None:
        step.expected, step.done, step.is_long = amount, 0, False


def did(amount: int) -> None:
    """Report that `amount` more of the work is done."""
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
    with suppress(ValueError):  # not on a worker: the step runs by itself, and nobody listens
        get_worker().log_event(TOPIC, [run, name, part])


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` with each report of this run while the context lasts, from other threads."""
    run = RUN.get()
    _listeners[run] = listener
    try:
        yield
    finally:
        _listeners.pop(run, None)


def hear(client: Client) -> None:
    """Receive the reports of a client's workers in this process."""
    client.subscribe_topic(TOPIC, _heard)


def _heard(event: tuple[float, Any]) -> None:
    run, name, part = event[1]
    if listener := _listeners.get(run):
        listener(name, part)
