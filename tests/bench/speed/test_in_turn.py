"""Things timed in turn, each in a process of its own."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import numpy as np
import pytest

from fthnet_kit.bench.speed.in_turn import Peer, Runner, in_turn
from fthnet_kit.edge.errors import EngineError


def sleeper(factor: float) -> Runner:
    return lambda seconds: time.sleep(factor * seconds)


def no_opener() -> Runner:
    raise ValueError("nothing here")


def breaking() -> Runner:
    def run(_: Any) -> None:
        raise RuntimeError("broken on the way")

    return run


def ending() -> Runner:
    return lambda _: os._exit(9)


def writing(path: str, name: str) -> Runner:
    def run(_: Any) -> None:
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write(f"{name} {os.getpid()}\n")

    return run


def test_each_is_timed_with_what_it_is_given() -> None:
    times = in_turn({"slow": partial(sleeper, 2.0), "fast": partial(sleeper, 1.0)}, [0.0] * 2 + [0.02] * 4, warm_up=2)
    assert times.shape == (4, 2)
    assert (times >= [40.0, 20.0]).all()


def test_processes_and_order_change_hands(tmp_path) -> None:
    path = str(tmp_path / "calls")
    in_turn({name: partial(writing, path, name) for name in "abc"}, range(40), warm_up=0)
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    names = "".join(name for name, _ in calls)
    rounds = [names[start : start + 3] for start in range(0, len(names), 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) == 6
    after_itself = [names.count(2 * name) for name in "abc"]
    assert max(after_itself) < 12, after_itself  # forwards and back again: the last one 20 times, the second never
    assert len({process for _, process in calls}) == 3
    assert str(os.getpid()) not in {process for _, process in calls}


@pytest.mark.parametrize(
    ("opener", "message"),
    [(no_opener, "what: nothing here"), (breaking, "what: broken on the way"), (ending, "what: its process ended")],
)
def test_what_fails_is_named(opener: Any, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        in_turn({"what": opener}, [None], warm_up=0)


def test_no_process_outlives_its_peer() -> None:
    with Peer("what", partial(sleeper, 1.0)) as peer:
        peer.ready()
        process = peer._process
        assert process.is_alive()
    assert not process.is_alive()


def test_no_rounds_give_no_times() -> None:
    assert in_turn({"what": partial(sleeper, 1.0)}, [], warm_up=0).shape == np.empty((0, 1)).shape
