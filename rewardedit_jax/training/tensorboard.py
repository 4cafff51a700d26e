"""Metrics and images as TensorBoard events."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class TensorBoard:
    """Writes the events of a run. A fault stops the charts with a warning, and never the training.

    Events are written and flushed at once. `tensorboardX.SummaryWriter` writes them in a thread: when that fails, for
    example on a full disk, the training waits for it for ever.

    Args:
      directory: created if it is missing; gets one file more for each run.
      purge_step: TensorBoard cannot delete events. It ignores those of this step and later ones in older files.
    """

    def __init__(self, directory: Path, purge_step: int):
        self._directory = directory
        self._writer: EventsWriter | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(directory / "events"))
        except OSError as error:
            self._give_up(error)
        self._write(step=purge_step, file_version="brain.Event:2")
        self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._write(step=step, summary=Summary(value=values))

    def add_image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        self._write(step=step, summary=summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer:
            try:
                writer.close()
            except OSError as error:
                self._give_up(error)

    def _write(self, **event: object) -> None:
        if self._writer:
            try:
                self._writer.write_event(Event(wall_time=time.time(), **event))
                self._writer.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        # Not closed: that would flush, and fail, again.
        self._writer = None
        logging.warning("no more TensorBoard charts in %s: %s. Metrics go on in metrics.jsonl.", self._directory, error)
