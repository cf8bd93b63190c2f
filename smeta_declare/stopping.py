"""Asked to stop: a signal cancels the statement that runs, and is noticed between statements."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from smeta_declare.errors import Exit, SmetaError, Stopped

_PATIENCE = 10.0  # seconds that a COMMIT may take after a signal before it is cancelled, too
_AGAIN = 0.5  # seconds between two cancels: one that comes before its statement is lost


class Stop:
    """Whether somebody asked us to stop; `cancel` stops what the server does for us.

    Nothing is raised from the handler: that can cut the driver in the middle of its protocol (measured).
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._signal: str | None = None
        self._asked = threading.Event()
        self._noticed = threading.Event()
        self._committing = threading.Event()

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    def check(self) -> None:
        """Raise Stopped where somebody has asked."""
        if self._signal:
            raise self.noticed()

    def noticed(self) -> Stopped:
        """The error to raise; from here on nothing is cancelled any more."""
        self._noticed.set()
        return Stopped(f"stopped by {self._signal}", hint="run the same command again")

    def sleep(self, seconds: float) -> None:
        """Pause; Stopped ends it."""
        self._asked.wait(seconds)
        self.check()

    @contextmanager
    def patient(self) -> Iterator[None]:
        """While a COMMIT is under way: its answer is waited for, as long as that is bearable."""
        self._committing.set()
        try:
            yield
        finally:
            self._committing.clear()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals that end a process; not in a thread, which gets none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {}
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            # What is left is to say how it ended, and that must not become another exit code.
            for number in before:
                signal.signal(number, signal.SIG_IGN)
            self._noticed.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While a person is asked something: Ctrl-C is the answer no."""
        self.check()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._signal:
            with suppress(OSError):
                os.write(
                    2, b"\nleft at once: the server rolls back what is open; run the same command again\n"
                )
            os._exit(Exit.HALFWAY)
        self._signal = signal.Signals(number).name
        # An event that is set here could wait for the very lock that the main thread was interrupted in.
        threading.Thread(target=self._act, daemon=True).start()

    def _act(self) -> None:
        self._asked.set()
        patience = time.monotonic() + _PATIENCE
        while not self._noticed.is_set():
            if not self._committing.is_set() or time.monotonic() > patience:
                with suppress(SmetaError):
                    self._cancel()
            self._noticed.wait(_AGAIN)
