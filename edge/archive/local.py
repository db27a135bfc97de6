"""Shards on this machine: in this process, or in a pool of processes with one session each."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from fthnet_kit.edge.archive.shard import ShardDone, ShardTask, score_shard, shard_path
from fthnet_kit.edge.errors import EngineError

LOG = logging.getLogger("fthnet")


def run_local(tasks: Sequence[ShardTask], workers: int) -> Iterator[ShardDone]:
    """Score shards, and give each as it is finished.

    A worker that is killed takes the pool with it; the shards that are missing are begun again in a new one.

    Raises:
        EngineError: a worker was killed before any shard was finished since the last one was.
        KitError: what `score_shard` raises.
    """
    if workers == 1:
        yield from map(score_shard, tasks)
        return
    left = list(tasks)
    while left:
        finished = 0
        try:
            for done in _in_pool(left, workers):
                finished += 1
                yield done
            return
        except BrokenProcessPool:
            left = [task for task in left if not shard_path(task.folder, task.shard).exists()]
            if not finished:
                raise EngineError(
                    f"a worker was killed twice in a row (memory?), {len(left)} shards are left; "
                    "finished shards are kept: the same command goes on, --workers 1 needs least memory"
                ) from None
            LOG.warning("a worker was killed; %d shards are begun again", len(left))


def _in_pool(tasks: Sequence[ShardTask], workers: int) -> Iterator[ShardDone]:
    context = multiprocessing.get_context("spawn")  # threads of OpenCV and ONNX Runtime do not survive a fork
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_follow_parent)
    try:
        for future in as_completed([pool.submit(score_shard, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """End with the parent, however it ends, and leave an interrupt to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
