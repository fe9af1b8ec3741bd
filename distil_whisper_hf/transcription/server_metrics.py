"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.25, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry, "namespace": "distil_whisper"}
        self.requests = Counter("requests", "Requests by path and status.", ["path", "status"], **own)
        self.errors = Counter("errors", "Requests that were not answered with a transcription.", ["status"], **own)
        self.audio_seconds = Counter("audio_seconds", "Seconds of audio that were transcribed.", **own)
        self.transcribed = Counter("transcriptions", "By language and expert.", ["language", "expert"], **own)
        self.queue = Gauge("queue_recordings", "Recordings in work or waiting.", **own)
        self.batch = Histogram("batch_windows", "Windows in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), **own)
        self.latency = Histogram("latency_seconds", "From a request to its end.", buckets=_SECONDS, **own)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self.registry)
