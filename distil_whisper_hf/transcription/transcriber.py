"""Recordings of any length and language to transcriptions, in batches of windows.

Every recording in work has one window of up to 30 s in the batch: the next one begins where the last time of this one
was said (see `session`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from .decoding import WindowDecoder
from .options import TranscriptionOptions
from .recordings import Recording
from .results import Transcription
from .session import Outcome, Session


class Transcriber:
    """Transcribes recordings with a Whisper and its language experts.

        transcriber = Transcriber(model, processor)
        for found in transcriber.transcribe(["a.mp3", "b.wav"], languages=["pl", None]):
            print(found.language, found.text)

    Args:
        model: in evaluation mode, where it is to compute.
        processor: Whisper's, with tokenizer and feature extractor.
        batch_size: recordings in work at once. Memory grows with it, and not with their lengths.
        progress: told after each window how many seconds of audio it took further.
    """

    def __init__(
        self,
        model: DistilWhisperForConditionalGeneration,
        processor: Any,
        *,
        batch_size: int = 8,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Expected a batch size of at least 1, got {batch_size}.")
        self.decoder = WindowDecoder(model, processor)
        self.batch_size = batch_size
        self.progress = progress or (lambda seconds: None)

    def transcribe(
        self,
        audios: Sequence[Any],
        options: TranscriptionOptions | None = None,
        *,
        languages: Sequence[str | None] | None = None,
    ) -> list[Transcription]:
        """Transcribe, in their order.

        Args:
            audios: what `audio_input.load_audio` takes, each.
            options: of all of them.
            languages: of each, over that of the options; None detects it.

        Raises:
            ValueError: another number of languages than of audios; and what one of the audios is refused for.
        """
        options = options or TranscriptionOptions()
        if languages is not None and len(languages) != len(audios):
            raise ValueError(f"Expected a language or None for each of {len(audios)} audios, got {len(languages)}.")
        own = languages if languages is not None else [options.language] * len(audios)
        recordings = [
            Recording(audio, replace(options, language=language)) for audio, language in zip(audios, own, strict=True)
        ]
        found: dict[int, Transcription] = {}
        places = {id(recording): place for place, recording in enumerate(recordings)}
        for outcome in self.stream(recordings):
            if outcome.transcription is None:
                raise outcome.error or RuntimeError("no transcription")
            found[places[id(outcome.recording)]] = outcome.transcription
        return [found[place] for place in range(len(recordings))]

    def stream(self, recordings: Iterable[Recording]) -> Iterator[Outcome]:
        """Transcribe as many as there are, each given out when it is finished; the next are taken when there is room.

        What is wrong with a recording ends that recording alone.
        """
        waiting, session = iter(recordings), Session(self.decoder, self.progress)
        try:
            while True:
                while session.running < self.batch_size and (recording := next(waiting, None)) is not None:
                    session.add(recording)
                if not session.running:
                    return
                yield from session.step()
        finally:
            session.close()
