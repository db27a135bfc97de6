"""SIGTERM, SIGINT and SIGHUP from the first moment on: noted while a command starts, until its loop takes over."""

from __future__ import annotations

import signal

FINAL_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_state = {"requested": False}  # no lock, as a signal may come inside the handler of another


def watch() -> None:
    """Note signals that would end the process from now on, for `requested`; call it from the main thread.

    Those that are ignored (SIGHUP under `nohup`) stay so.
    """
    for number in FINAL_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _note)


def requested() -> bool:
    """Whether a signal was noted."""
    return _state["requested"]


def _note(*_: object) -> None:
    _state["requested"] = True
