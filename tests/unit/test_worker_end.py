"""What a worker that ends does with its last spans: a collector that is away must not keep it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress

import pytest

from orchestrator.observability import tracing
from orchestrator.settings import Settings
from orchestrator.worker import main

PROMISED_SECONDS = 3.0


class Spans:
    def __init__(self) -> None:
        self.handed_over = 0

    def close(self) -> None:
        self.handed_over += 1


async def ended(monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Awaitable[None]]) -> Spans:
    """The spans of a worker that served so, and was cancelled once it could be."""
    spans = Spans()
    monkeypatch.setattr(main, "_serve", serve)
    monkeypatch.setattr(main, "measured_runtime", lambda *_: nullcontext())
    monkeypatch.setattr(main.Tracing, "of", lambda *_: spans)
    serving = asyncio.create_task(main._set_up_and_serve(Settings(), "order", "worker-1", asyncio.Event()))
    await asyncio.sleep(0)
    serving.cancel()
    with suppress(asyncio.CancelledError, RuntimeError):
        await serving
    return spans


async def done(*_: object) -> None:
    return None


async def failed(*_: object) -> None:
    raise RuntimeError("its background work is dead")


async def at_work(*_: object) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("serve", "handed_over"), [(done, 1), (failed, 1), (at_work, 0)])
async def test_the_last_spans_are_handed_over_unless_the_worker_is_late_already(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Awaitable[None]], handed_over: int
) -> None:
    assert (await ended(monkeypatch, serve)).handed_over == handed_over


def test_a_worker_that_hands_over_at_the_last_moment_and_then_its_spans_keeps_its_promise() -> None:
    assert main.STOP_SECONDS + tracing.CLOSE_SECONDS < PROMISED_SECONDS
    assert main.STOP_SECONDS + main.CANCEL_SECONDS < PROMISED_SECONDS
