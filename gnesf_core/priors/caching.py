"""Cache a prior: every kept frame's class maps, once, in one file per scene.

A killed run goes on where it stopped: maps that are done lie in a journal beside the
output, each with its checksum, and are taken over if nothing that made them changed.
"""

import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gnesf_core.data.store import Frames, PriorWriter, write_prior
from gnesf_core.priors.interface import Prior
from gnesf_core.progress import Progress
from gnesf_core.shapes import Float32

log = logging.getLogger(__name__)


def cache_prior(
    path: Path,
    frames: Frames,
    prior: Prior,
    logits: bool,
    made_by: Mapping[str, Any],
    code: str = "",
) -> tuple[float, int]:
    """Write the `prior` file of a scene; return seconds, and how many maps they made.

    Maps that an earlier run had made already are not among them; it must have been of
    the same `code`.
    """
    size = prior.map_size(frames)
    with (
        write_prior(path, frames, size, logits, made_by) as writer,
        Journal(path, {"code": code, "made_by": made_by}, writer) as journal,
    ):
        before = journal.count
        progress = Progress("frames", len(frames), before)
        if before:
            log.info("%d of %d frames were done already", before, len(frames))
        for done, scores in enumerate(prior.scores(frames, before), before + 1):
            journal.add(scores)
            progress.tell(done)
        seconds = progress.seconds
    journal.remove()
    return seconds, len(frames) - before


class Journal:
    """What is done of a file that is being made, for whoever goes on with it."""

    def __init__(self, path: Path, key: Mapping[str, Any], writer: PriorWriter) -> None:
        self._path = path.with_name(f".{path.name}.journal")
        self._writer = writer
        self.count = 0
        # O_NOFOLLOW: a link planted under this name must not lead us away.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._path, flags, 0o666), "r+b")
        heading = json.dumps(key, sort_keys=True).encode() + b"\n"
        end = self._replay(heading)
        if end == 0:
            self._file.seek(0)
            end = self._file.write(heading)
        self._file.truncate(end)
        self._file.seek(end)

    def _replay(self, heading: bytes) -> int:
        """Take over the records that are whole; return where they end, or 0."""
        if self._file.read(len(heading)) != heading:
            return 0
        kind = self._writer.record_type
        end = len(heading)
        while len(data := self._file.read(kind.itemsize + 4)) == kind.itemsize + 4:
            if zlib.crc32(data[:-4]).to_bytes(4, "big") != data[-4:]:
                break
            self._writer.put(np.frombuffer(data[:-4], kind).reshape(()))
            self.count += 1
            end += len(data)
        return end

    def add(self, scores: Float32[np.ndarray, "classes h w"]) -> None:
        """Store one frame's scores in the output and in the journal."""
        record = self._writer.record(scores)
        self._writer.put(record)
        data = record.tobytes()
        self._file.write(data + zlib.crc32(data).to_bytes(4, "big"))
        self._file.flush()

    def remove(self) -> None:
        """Forget it all; the output is whole."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
