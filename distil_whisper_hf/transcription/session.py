"""Recordings in work: a window of each in the batch, until its last one.

Rows are a recording's own in all that decides its words: language, expert, prompt, temperature, draws.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..languages import language_code
from ..routing import SHARED, LoadedExperts
from .alignment import FRAMES_PER_SECOND, AlignmentRequest, align
from .decoding import DecodedWindow, EncodedWindow, WindowDecoder, WindowRequest
from .options import TranscriptionOptions
from .recordings import SAMPLING_RATE, Reader, Recording, at_most, read_blocks
from .results import OpenGates, Segment, Transcription, Word
from .speech_only import SpeechOnly
from .window_segments import Piece, cut_window

# Above it a text is told to no later window, as it may have gone astray.
_ASTRAY = 0.5
_SAMPLES_PER_SEEK = SAMPLING_RATE // 100


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a recording: its transcription, or the error for which there is none."""

    recording: Recording
    transcription: Transcription | None = None
    error: Exception | None = None


@dataclass(eq=False)
class _Row:
    """A recording in work."""

    recording: Recording
    loaded: LoadedExperts
    reader: Reader
    speech: SpeechOnly | None
    history: list[int]
    language: str | None
    probability: float | None = None
    expert: str | None = None
    # Sample at which the window begins, of the recording or of its speech.
    seek: int = 0
    window_samples: int = 0
    waveform: np.ndarray | None = None
    encoded: EncodedWindow | None = None
    attempt: int = 0
    segments: list[Segment] = field(default_factory=list)
    # Open gates and all gates, of the encoder and of the decoder.
    gates: np.ndarray = field(default_factory=lambda: np.zeros((2, 2)))

    @property
    def options(self) -> TranscriptionOptions:
        return self.recording.options

    def place(self, sample: int, *, is_end: bool = False) -> int:
        """Where a sample of what is read is in the recording."""
        return sample if self.speech is None else self.speech.original(sample, is_end=is_end)


class Session:
    """Recordings in work: they may come and go between two steps.

    Args:
        decoder: of the model.
        progress: told after each window how many seconds of audio it took further.
        said: told of a recording the segments of each of its windows, as soon as they are known.
    """

    def __init__(
        self,
        decoder: WindowDecoder,
        progress: Callable[[float], None] = lambda seconds: None,
        said: Callable[[Recording, Sequence[Segment]], None] = lambda recording, segments: None,
    ) -> None:
        self._decoder = decoder
        self._progress = progress
        self._said = said
        self._rows: list[_Row] = []
        self._refused: list[Outcome] = []

    @property
    def running(self) -> int:
        """How many there are, those included that the next step gives out as refused."""
        return len(self._rows) + len(self._refused)

    def add(self, recording: Recording) -> None:
        """Take a recording in; what is wrong with it is in its outcome."""
        try:
            self._rows.append(self._new_row(recording))
        except (ValueError, KeyError, OSError, ImportError) as error:
            self._refused.append(Outcome(recording, error=error))

    def remove(self, recording: Recording) -> None:
        """Let go of a recording whose transcription nobody wants any more."""
        for row in [row for row in self._rows if row.recording is recording]:
            self._end(row)

    def close(self) -> None:
        """Let go of all."""
        for row in list(self._rows):
            self._end(row)

    def step(self, limit: int | None = None) -> list[Outcome]:
        """Decode a window of every recording; what was finished or failed by it.

        Args:
            limit: of so many recordings at most; those that were not among them come first in the next step.
        """
        outcomes, self._refused = self._refused, []
        rows = self._rows[:limit]
        self._rows = self._rows[len(rows) :] + rows
        self._read(rows, outcomes)
        # A recording goes on with the experts that there were at its beginning, whatever came or went since.
        groups: dict[int, list[_Row]] = {}
        for row in rows:
            if row in self._rows:
                groups.setdefault(id(row.loaded.entries), []).append(row)
        for group in groups.values():
            self._decode(group, group[0].loaded.for_one_call(), outcomes)
        return outcomes

    def _decode(self, rows: list[_Row], loaded: LoadedExperts, outcomes: list[Outcome]) -> None:
        self._encode(rows, loaded, outcomes)
        rows = [row for row in rows if row in self._rows]
        if not rows:
            return
        accepted: list[tuple[_Row, DecodedWindow, float]] = []
        decoded_rows = self._decoder.decode([self._request(row) for row in rows], loaded)
        for row, decoded in zip(rows, decoded_rows, strict=True):
            ratio = compression_ratio(self._text(decoded.tokens).strip())
            if self._is_good(row.options, decoded, ratio) or row.attempt + 1 == len(row.options.temperature):
                accepted.append((row, decoded, ratio))
            else:
                row.attempt += 1
        self._accept(accepted, loaded)

    def _new_row(self, recording: Recording) -> _Row:
        options, decoder = recording.options, self._decoder
        language = "en" if not decoder.is_multilingual else options.language
        if language is not None and decoder.is_multilingual:
            language = language_code(language, decoder.language_tokens)
        if not decoder.is_multilingual and (options.language not in (None, "en") or options.task != "transcribe"):
            raise ValueError(
                f"Expected English to transcribe, got {options.language or 'no language'} to {options.task}: this "
                "model knows nothing else."
            )
        history: list[int] = []
        if options.initial_prompt and options.initial_prompt.strip():
            history = decoder.processor.get_prompt_ids(options.initial_prompt.strip()).tolist()[1:]
        blocks: Iterable[np.ndarray] = at_most(
            read_blocks(recording.audio, recording.label), recording.most_seconds, recording.label
        )
        speech = None
        if options.vad_filter:
            speech = SpeechOnly(
                blocks,
                threshold=options.vad_threshold,
                min_silence_seconds=options.vad_min_silence_seconds,
                pad_seconds=options.vad_pad_seconds,
            )
        reader = Reader(blocks if speech is None else speech)
        return _Row(recording, decoder.experts(), reader, speech, history, language)

    def _read(self, rows: Sequence[_Row], outcomes: list[Outcome]) -> None:
        """Read the next window of every row that needs one; rows at their end are finished."""
        length = self._decoder.window_seconds * SAMPLING_RATE
        for row in rows:
            if row.encoded is not None:
                continue
            try:
                window = row.reader.window(row.seek, length)
            except (ValueError, OSError, ImportError) as error:
                self._end(row)
                outcomes.append(Outcome(row.recording, error=error))
                continue
            if len(window):
                row.waveform, row.window_samples = window, len(window)
            else:
                self._end(row)
                outcomes.append(Outcome(row.recording, self._finished(row)))

    def _encode(self, rows: Sequence[_Row], loaded: LoadedExperts, outcomes: list[Outcome]) -> None:
        rows = [row for row in rows if row.encoded is None]
        for row in rows:
            if row.language is not None:
                self._choose(row, loaded, outcomes)
        rows = [row for row in rows if row in self._rows]
        if not rows:
            return
        features = self._decoder.features([row.waveform for row in rows if row.waveform is not None])
        # Whoever's language is not known yet is plain Whisper's, which finds it.
        for row, encoded in zip(
            rows, self._decoder.encode(features, [row.expert for row in rows], loaded), strict=True
        ):
            row.encoded, row.waveform = encoded, None
        unknown = [row for row in rows if row.language is None]
        if not unknown:
            return
        windows = [row.encoded for row in unknown if row.encoded is not None]
        for row, (language, probability) in zip(unknown, self._decoder.detect(windows), strict=True):
            row.language, row.probability = language, probability
            self._choose(row, loaded, outcomes)
        again = [place for place, row in enumerate(rows) if row in unknown and row in self._rows and row.expert]
        if again:
            experts = [rows[place].expert for place in again]
            for place, encoded in zip(again, self._decoder.encode(features[again], experts, loaded), strict=True):
                rows[place].encoded = encoded

    def _choose(self, row: _Row, loaded: LoadedExperts, outcomes: list[Outcome]) -> None:
        """The expert of a row whose language is known: the one asked for, or that of the language."""
        name = row.options.expert
        try:
            if name is not None:
                row.expert = None if name == SHARED else loaded.names[loaded.index(name)]
                return
        except KeyError as error:
            self._end(row)
            outcomes.append(Outcome(row.recording, error=error))
            return
        token = self._decoder.language_tokens.get(row.language or "")
        index = None if token is None or row.options.task == "translate" else loaded.language_tokens.get(token)
        row.expert = None if index is None else loaded.names[index]

    def _request(self, row: _Row) -> WindowRequest:
        if row.encoded is None or row.language is None:
            raise RuntimeError("a window that is not encoded")
        return WindowRequest(
            encoded=row.encoded,
            language=row.language,
            task=row.options.task,
            previous=row.history,
            temperature=row.options.temperature[row.attempt],
            # Every window and attempt draws anew.
            seed=zlib.crc32(f"{row.options.seed}:{row.seek}:{row.attempt}".encode()),
            beam_size=row.options.beam_size,
        )

    @staticmethod
    def _is_good(options: TranscriptionOptions, decoded: DecodedWindow, ratio: float) -> bool:
        """Whether a window need not be decoded again."""
        unlikely = options.logprob_threshold is not None and decoded.avg_logprob < options.logprob_threshold
        silence = options.no_speech_threshold
        if unlikely and silence is not None and decoded.no_speech_prob > silence:
            # No temperature turns it into speech.
            return True
        repetitive = options.compression_ratio_threshold is not None and ratio > options.compression_ratio_threshold
        return not (unlikely or repetitive)

    @staticmethod
    def _is_silence(options: TranscriptionOptions, decoded: DecodedWindow) -> bool:
        if options.no_speech_threshold is None or decoded.no_speech_prob <= options.no_speech_threshold:
            return False
        return options.logprob_threshold is None or decoded.avg_logprob <= options.logprob_threshold

    def _accept(self, accepted: list[tuple[_Row, DecodedWindow, float]], loaded: LoadedExperts) -> None:
        cut: list[tuple[_Row, DecodedWindow, float, list[Piece], float]] = []
        for row, decoded, ratio in accepted:
            seconds = row.window_samples / SAMPLING_RATE
            pieces, following = cut_window(
                decoded.tokens, timestamp_begin=self._decoder.timestamp_begin, seconds=seconds
            )
            if self._is_silence(row.options, decoded):
                pieces, following = [], seconds
            # What has no length or no text is nothing that a reader could see.
            pieces = [one for one in pieces if one.end > one.start and self._text(one.tokens).strip()]
            cut.append((row, decoded, ratio, pieces, following))
        words = self._words(cut, loaded)
        for row, decoded, ratio, pieces, following in cut:
            known = len(row.segments)
            self._add_segments(row, decoded, ratio, pieces, words.get(id(row)))
            self._said(row.recording, row.segments[known:])
            row.history += [token for piece in pieces for token in piece.tokens]
            if not row.options.condition_on_previous_text or row.options.temperature[row.attempt] > _ASTRAY:
                row.history = []
            del row.history[: -self._decoder.previous_limit]
            advanced = min(round(following * SAMPLING_RATE), row.window_samples)
            row.seek += advanced
            row.encoded, row.attempt = None, 0
            self._progress(advanced / SAMPLING_RATE)

    def _words(
        self, cut: Sequence[tuple[_Row, DecodedWindow, float, list[Piece], float]], loaded: LoadedExperts
    ) -> dict[int, list[list[Word]]]:
        rows, requests = [], []
        for row, _, _, pieces, _ in cut:
            if row.options.word_timestamps and pieces and row.encoded is not None and row.language is not None:
                texts = [[token for token in piece.tokens if token < self._decoder.end] for piece in pieces]
                seconds = row.window_samples / SAMPLING_RATE
                requests.append(AlignmentRequest(row.encoded, row.language, row.options.task, texts, seconds))
                rows.append(row)
        found = align(self._decoder, requests, loaded) if requests else []
        return {id(row): words for row, words in zip(rows, found, strict=True)}

    def _add_segments(
        self,
        row: _Row,
        decoded: DecodedWindow,
        ratio: float,
        pieces: Sequence[Piece],
        words: Sequence[Sequence[Word]] | None,
    ) -> None:
        encoder = None if row.encoded is None else row.encoded.open_gates
        if encoder is not None and decoded.open_gates is not None:
            frames = encoder[: max(1, row.window_samples * FRAMES_PER_SECOND // SAMPLING_RATE)]
            row.gates += [[frames.sum(), len(frames)], [decoded.open_gates.sum(), len(decoded.open_gates)]]

        def at(second: float, *, is_end: bool = False) -> float:
            return round(row.place(row.seek + round(second * SAMPLING_RATE), is_end=is_end) / SAMPLING_RATE, 3)

        for place, piece in enumerate(pieces):
            gates = None
            if encoder is not None and decoded.open_gates is not None:
                frames = encoder[int(piece.start * FRAMES_PER_SECOND) : int(piece.end * FRAMES_PER_SECOND) + 1]
                tokens = decoded.open_gates[piece.first : piece.first + len(piece.tokens)]
                gates = OpenGates(float(frames.mean()), float(tokens.mean()))
            timed = None
            if words is not None:
                timed = tuple(
                    replace(word, start=at(word.start), end=at(word.end, is_end=True)) for word in words[place]
                )
            row.segments.append(
                Segment(
                    id=len(row.segments),
                    seek=row.place(row.seek) // _SAMPLES_PER_SEEK,
                    start=at(piece.start),
                    end=at(piece.end, is_end=True),
                    text=self._text(piece.tokens),
                    tokens=piece.tokens,
                    temperature=row.options.temperature[row.attempt],
                    avg_logprob=decoded.avg_logprob,
                    compression_ratio=ratio,
                    no_speech_prob=decoded.no_speech_prob,
                    words=timed,
                    open_gates=gates,
                )
            )

    def _finished(self, row: _Row) -> Transcription:
        samples = row.reader.samples if row.speech is None else row.speech.samples_read
        (encoder, frames), (decoder, tokens) = row.gates.tolist()
        gates = OpenGates(encoder / frames, decoder / tokens) if frames and tokens else None
        return Transcription(
            segments=tuple(row.segments),
            language=row.language or "en",
            task=row.options.task,
            duration=round(samples / SAMPLING_RATE, 3),
            expert=row.expert,
            language_probability=row.probability,
            speech_seconds=None if row.speech is None else round(row.reader.samples / SAMPLING_RATE, 3),
            name=row.recording.name,
            open_gates=gates,
        )

    def _text(self, tokens: Sequence[int]) -> str:
        return self._decoder.processor.tokenizer.decode([token for token in tokens if token < self._decoder.end])

    def _end(self, row: _Row) -> None:
        self._rows.remove(row)
        row.reader.close()


def compression_ratio(text: str) -> float:
    """Bytes of a text in UTF-8 over those after zlib; repetition makes it large."""
    content = text.encode()
    return len(content) / len(zlib.compress(content))
