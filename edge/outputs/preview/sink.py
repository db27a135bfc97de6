"""Results to the page, with the hint and the best shot of the moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fthnet_kit.edge.outputs.preview.board import WaitingShot

if TYPE_CHECKING:
    from fthnet_kit.edge.loop.result import LiveResult
    from fthnet_kit.edge.outputs.best_shot.shot import Shot
    from fthnet_kit.edge.outputs.preview.server import PreviewServer


@dataclass(frozen=True)
class PageSink:
    """Results to the page.

    Attributes:
        server: of the page.
        hint: gives the hint of the moment, None without one.
        shot: gives the newest best shot, None without one.
    """

    server: PreviewServer
    hint: Callable[[], str | None]
    shot: Callable[[], Shot | None]

    def offer(self, result: LiveResult) -> None:
        """One result."""
        self.server.offer(result, self.hint(), WaitingShot.of(self.shot()))

    def close(self) -> None:
        """Let all viewers go."""
        self.server.close()
