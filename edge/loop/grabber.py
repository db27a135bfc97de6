"""The grab thread: it owns the camera, and hands the newest frame over."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np

from fthnet_kit.edge.capture.source import CorruptFrameError, Source
from fthnet_kit.edge.errors import InputError, KitError
from fthnet_kit.edge.frame import AnyFrame, EncodedFrame
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.frame_slot import FrameSlot, Grabbed
from fthnet_kit.edge.loop.options import LiveOptions
from fthnet_kit.edge.model.score import Reason

SIGNATURE_STRIDE = 16
FLAT_LEVELS = 4  # gray levels: a picture with less contrast (a lens cap, a saturated sensor) repeats itself in health
AFTER_CORRUPT_S = 0.002  # a driver that gives broken pictures without waiting must not take a whole core


class Grabber(threading.Thread):
    """Reads one source into one slot, until the source ends or `stop` is called.

    Args:
        source: what to read; `opened` says whether it is open already.
        slot: where frames go.
        options: patience.
        contain: called with every error of a live source; those of a file end the thread.
    """

    def __init__(
        self,
        source: Source,
        slot: FrameSlot,
        options: LiveOptions,
        contain: Callable[[Exception], None],
        *,
        opened: bool,
    ) -> None:
        super().__init__(name="grab", daemon=True)
        self.source = source
        self.slot = slot
        self.options = options
        self.opened = opened
        self.state: Literal["connecting", "reading"] = "reading" if opened else "connecting"
        self.alive_s = time.monotonic()
        self.reconnects = 0
        self.failure: Exception | None = None
        self._contain = contain
        self._stopping = threading.Event()
        self._useful = 0
        self._are_broken = False
        self._signature: int | bytes = 0
        self._changed_s = time.monotonic()
        self._is_flat: bool | None = None

    def stop(self) -> None:
        """Ask the thread to end; it closes its source itself, even if it comes back from a hang much later."""
        self._stopping.set()
        self.slot.close(discard=True)

    def judge(self, *, whole: bool) -> None:
        """Told by the scoring thread whether an encoded picture could be decoded."""
        self._are_broken = not whole

    def run(self) -> None:
        """Thread body: read, and open again after each silence."""
        backoff = self.options.first_backoff_s
        try:
            while not self._stopping.is_set():
                useful = self._useful
                if self.opened:
                    self._read_until_useless()
                if self._stopping.is_set() or self.source.ended:
                    break
                backoff = self.options.first_backoff_s if self._useful > useful else backoff
                self._reopen(backoff)
                backoff = min(2 * backoff, self.options.longest_backoff_s)
        except Exception as error:  # a file's; the scoring thread raises it
            self.failure = error
        finally:
            self._close_source()
            self.slot.close()

    def _read_until_useless(self) -> None:
        """Read frames until the source gives none, or none of use."""
        self.state = "reading"
        self._are_broken = False
        useful_s = time.monotonic()
        while not self._stopping.is_set():
            self.alive_s = time.monotonic()
            if self.source.live and self.alive_s - useful_s >= self.options.useless_s:
                return
            try:
                frame = self.source.read()
            except CorruptFrameError as error:
                self.slot.put(Grabbed(None, "corrupt_frame", error.name))
                if self.source.live:
                    self._stopping.wait(AFTER_CORRUPT_S)
                continue
            except Exception as error:
                if not self.source.live:
                    raise
                self._contain(error)
                return
            if frame is None:
                return
            begun_s = min(self.alive_s, frame.captured_ns / 1e9)  # it may have begun before a stall
            if self.source.live and time.monotonic() - begun_s >= self.options.stall_s:
                self.slot.put(Grabbed(None, "stalled", frame.name, frame.skipped))
                continue
            reason: Reason | None = "frozen" if self.source.live and self._is_frozen(frame) else None
            if reason is None and not self._are_broken:
                self._useful += 1
                useful_s = time.monotonic()
            self.slot.put(Grabbed(frame, reason, frame.name, frame.skipped))

    def _is_frozen(self, frame: AnyFrame) -> bool:
        """Whether the picture has been the same, bit for bit, for too long: a living sensor is never that still.

        A picture without contrast is left to the retina gate, which says what it is.
        """
        signature = frame.data if isinstance(frame, EncodedFrame) else zlib.crc32(_sample(frame).tobytes())
        now = time.monotonic()
        if signature != self._signature:
            self._signature, self._changed_s, self._is_flat = signature, now, None
        if now - self._changed_s < self.options.frozen_s:
            return False
        if self._is_flat is None:
            self._is_flat = _has_no_contrast(frame)
        return not self._is_flat

    def _reopen(self, backoff_s: float) -> None:
        """One attempt to open the source again, after a pause."""
        self.state, self.opened = "connecting", False
        self._close_source()
        if self._stopping.wait(backoff_s):
            return
        self.alive_s = time.monotonic()
        try:
            self.source.open()
        except KitError:
            return  # still unplugged
        except Exception as error:
            self._contain(error)
            return
        self.opened = True
        self.reconnects += 1

    def _close_source(self) -> None:
        try:
            self.source.close()
        except Exception as error:
            self._contain(error)


def _sample(frame: AnyFrame) -> Image:
    """Every sixteenth pixel of every sixteenth row."""
    return frame.decoded().image[::SIGNATURE_STRIDE, ::SIGNATURE_STRIDE]


def _has_no_contrast(frame: AnyFrame) -> bool:
    try:
        return int(np.ptp(_sample(frame))) < FLAT_LEVELS
    except InputError:  # a broken picture, over and over
        return False
