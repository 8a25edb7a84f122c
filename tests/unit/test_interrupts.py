"""Signals that interrupt `up` and the demo."""

import os
import signal

import pytest

from orchestrator.cli import stack


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_that_was_lost_is_raised_again(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stack.interrupt_on_signals() as raise_if_interrupted:
        raise_if_interrupted()
        # As a finalizer or a callback of C code loses it.
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            raise_if_interrupted()
    assert signal.getsignal(number) is before


def test_a_wait_for_the_end_of_the_stack_notices_a_lost_interrupt() -> None:
    class RunningStack:
        def is_up(self) -> bool:
            return True

    with stack.interrupt_on_signals() as raise_if_interrupted:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stack.wait_for_end(RunningStack(), raise_if_interrupted)
