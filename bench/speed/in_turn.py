"""Several things timed in turn, each in a process of its own.

Thread pools of several runtimes in one process disturb each other. In turn, so that a machine that slows down slows all
of them.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import EngineError

Runner = Callable[[Any], object]
"""Does once what is timed, with what `Peer.time` is given; what it holds is open until its process ends."""
Opener = Callable[[], Runner]
"""Makes a runner inside the process; a function of a module, or a `functools.partial` of one."""
START_S = 120.0
RUN_S = 60.0


class Peer:
    """A process that opens something and times it on request. A context manager.

    Args:
        name: for messages.
        opener: what it opens.

    Raises:
        EngineError: it could not be opened, or the process ended.
    """

    def __init__(self, name: str, opener: Opener) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, opener), daemon=True)
        with _deaf_to_interrupts():
            self._process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until it is open."""
        self._answer(START_S)

    def time(self, payload: Any = None) -> float:
        """Milliseconds of one run."""
        self._pipe.send((payload,))
        return float(self._answer(RUN_S))

    def _answer(self, within_s: float) -> Any:
        try:
            if not self._pipe.poll(within_s):
                raise EngineError(f"{self.name}: expected an answer within {within_s:g} s, found none")
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise EngineError(f"{self.name}: its process ended; what it said stands above") from error
        if kind == "error":
            raise EngineError(f"{self.name}: {value}")
        return value

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.terminate()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def in_turn(openers: Mapping[str, Opener], payloads: Iterable[Any], warm_up: int = 5) -> npt.NDArray[np.float64]:
    """Times of several things, once each a round, in an order that is drawn anew: nothing always follows itself.

    Args:
        openers: what is timed, by name.
        payloads: what the runners of a round are given; their number is that of the rounds.
        warm_up: rounds that are left out.

    Returns:
        Milliseconds, float64 (rounds - warm_up, things).

    Raises:
        EngineError: one of them cannot be opened, fails or ends.
    """
    rounds, rng = [], np.random.default_rng(0)
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(name, opener)) for name, opener in openers.items()]
        for peer in peers:
            peer.ready()
        for payload in payloads:
            spent = [0.0] * len(peers)
            for place in rng.permutation(len(peers)):
                spent[place] = peers[place].time(payload)
            rounds.append(spent)
    return np.array(rounds[warm_up:], np.float64).reshape(-1, len(openers))


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A process that is started here leaves Ctrl-C to this one, from its first import on: it inherits that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, opener: Opener) -> None:
    """What runs in the process: open, then time until the other end closes."""
    try:
        run = opener()
        pipe.send(("ready", None))
        gc.disable()
        while True:
            (payload,) = pipe.recv()
            started = time.perf_counter()
            run(payload)
            pipe.send(("ms", 1e3 * (time.perf_counter() - started)))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # whatever the library raises is reported by name
        pipe.send(("error", str(error) or repr(error)))
