"""The same shard function on Ray Data: one session an actor; a killed actor is replaced, its shard begun again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from fthnet_kit.edge.archive.shard import ShardDone, ShardTask, score_shard
from fthnet_kit.edge.errors import EngineError, MissingExtraError


def run_on_ray(tasks: Sequence[ShardTask], workers: int, address: str) -> Iterator[ShardDone]:
    """Score shards on a Ray cluster, whose machines see the inputs and the archive's folder at the same paths.

    Args:
        tasks: the shards.
        workers: actors.
        address: the cluster's; empty: the one that ``RAY_ADDRESS`` names, otherwise one on this machine.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: no cluster, or a shard failed on it.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray", purpose="--ray") from error
    try:
        _connect(ray, address)
        ray.data.DataContext.get_current().enable_progress_bars = False
        data = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks)).map_batches(
            ShardActor,
            batch_size=1,
            num_cpus=tasks[0].options.threads,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(tasks))),
            max_restarts=-1,
            max_task_retries=-1,
        )
        for row in data.iter_rows():
            yield ShardDone(int(row["shard"]), int(row["rows"]), int(row["failed"]))
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        cause = str(error).strip().splitlines()[-1]
        raise EngineError(f"Ray: {cause}; finished shards are kept: the same command goes on") from error
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Join a cluster, or start one on this machine, without the dashboard that nobody asked for."""
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine starts slowly
    address = address or os.environ.get("RAY_ADDRESS", "")
    own: dict[str, Any] = {"include_dashboard": False} if address in ("", "local") else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:  # Ray raises a bare Exception where a node does not start
        cause = " ".join(str(error).split())
        raise EngineError(f"--ray {address}: expected a Ray that answers, found: {cause}") from error


class ShardActor:
    """A worker on Ray: its process keeps one session."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Score the shards of a batch."""
        done = [score_shard(task) for task in batch["task"]]
        return {
            "shard": [each.shard for each in done],
            "rows": [each.rows for each in done],
            "failed": [each.failed for each in done],
        }
