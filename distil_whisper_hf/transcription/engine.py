"""One thread that transcribes what many threads ask for: waiting recordings share batches, in turns."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from .decoding import WindowDecoder
from .recordings import Recording
from .results import Segment, Transcription
from .session import Session

logger = logging.getLogger(__name__)


class BusyError(Exception):
    """As many recordings wait as may; `seconds` is when to come again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"Expected room in the queue, it is full. Come again in {seconds} s.")
        self.seconds = seconds


class ClosedError(Exception):
    """The engine takes nothing more, or ended before this was done."""


@dataclass(eq=False)
class Job:
    """A recording that somebody waits for.

    Attributes:
        future: its transcription, or why there is none.
        said: called in the engine's thread with the segments of each window; None for nobody.
        begun: when it came, as `time.monotonic`.
    """

    recording: Recording
    said: Callable[[Sequence[Segment]], None] | None = None
    future: Future[Transcription] = field(default_factory=Future)
    begun: float = field(default_factory=time.monotonic)


class Engine:
    """Transcribes in a thread of its own until it is closed.

    Args:
        model, processor: as for `Transcriber`.
        batch_size: windows decoded at once.
        most_waiting: recordings in work or waiting; more are refused.
        stepped: told after each step how many rows were in its batch, and how many recordings there are.
        decoded: told how many seconds of audio a window took further.
    """

    def __init__(
        self,
        model: DistilWhisperForConditionalGeneration,
        processor: Any,
        *,
        batch_size: int = 8,
        most_waiting: int = 64,
        stepped: Callable[[int, int], None] = lambda rows, jobs: None,
        decoded: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        if batch_size < 1 or most_waiting < 1:
            raise ValueError(f"Expected a batch and a queue of at least 1, got {batch_size} and {most_waiting}.")
        self.decoder = WindowDecoder(model, processor)
        self._batch_size, self._most = batch_size, most_waiting
        self._stepped, self._decoded = stepped, decoded
        self._jobs: dict[int, Job] = {}
        self._new: list[Job] = []
        self._gone: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        # Of a job, smoothed: for how long others will have to wait.
        self._seconds = 5.0
        self._thread = threading.Thread(target=self._run, name="transcription", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it works, and takes more."""
        return self._thread.is_alive() and not self._closing

    @property
    def jobs(self) -> int:
        """Recordings in work or waiting."""
        return len(self._jobs)

    def submit(self, recording: Recording, said: Callable[[Sequence[Segment]], None] | None = None) -> Job:
        """Take a recording in.

        Raises:
            BusyError: there is no room.
            ClosedError: the engine is closed.
        """
        with self._changed:
            if not self.is_alive:
                raise ClosedError("Expected a server that runs, this one is stopping.")
            if len(self._jobs) >= self._most:
                turns = len(self._jobs) / self._batch_size
                raise BusyError(max(1, min(60, round(turns * self._seconds))))
            job = Job(recording, said)
            self._jobs[id(recording)] = job
            self._new.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Let go of a recording that nobody waits for any more; its place is free at once."""
        with self._changed:
            if self._jobs.pop(id(job.recording), None) is not None:
                self._gone.append(job)
                self._changed.notify()

    def close(self, seconds: float | None = None) -> bool:
        """Take nothing more, finish what there is, and end.

        Args:
            seconds: to wait at most; what is not finished then is given up. None: as long as it takes.

        Returns:
            Whether all was finished.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        finished = not self._thread.is_alive()
        with self._changed:
            for job in self._jobs.values():
                # Not cancelled: who waits is to be told why.
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(ClosedError("The server was stopped."))
            self._gone += self._jobs.values()
            self._jobs.clear()
        return finished

    def _run(self) -> None:
        session = Session(self.decoder, self._decoded, self._said)
        while True:
            with self._changed:
                while not (self._new or self._gone or session.running or self._closing):
                    self._changed.wait()
                new, self._new, gone, self._gone = self._new, [], self._gone, []
                if self._closing and not (new or session.running):
                    return
            for job in gone:
                session.remove(job.recording)
            for job in new:
                if job not in gone:
                    session.add(job.recording)
            if not session.running:
                continue
            try:
                outcomes = session.step(self._batch_size)
            except Exception:
                # One fault must not end the service; which recording it was of is not known.
                logger.exception("A batch failed; its recordings are given up.")
                session.close()
                session = Session(self.decoder, self._decoded, self._said)
                self._fail_all(RuntimeError("The server failed at this batch; its log says how."))
                continue
            for outcome in outcomes:
                self._finish(outcome.recording, outcome.transcription, outcome.error)
            self._stepped(min(self._batch_size, session.running + len(outcomes)), len(self._jobs))

    def _said(self, recording: Recording, segments: Sequence[Segment]) -> None:
        job = self._jobs.get(id(recording))
        if job is not None and job.said is not None and segments:
            job.said(segments)

    def _finish(self, recording: Recording, found: Transcription | None, error: Exception | None) -> None:
        with self._changed:
            job = self._jobs.pop(id(recording), None)
        if job is None or not job.future.set_running_or_notify_cancel():
            return
        self._seconds += 0.1 * (time.monotonic() - job.begun - self._seconds)
        if found is not None:
            job.future.set_result(found)
        else:
            job.future.set_exception(error or RuntimeError("no transcription"))

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            jobs = [job for job in self._jobs.values() if job not in self._new]
        for job in jobs:
            self._finish(job.recording, None, error)
