"""Transcribe recordings of any length with a Whisper and its language experts: text, subtitles, JSON.

    distil-whisper transcribe talk.mp3 --model openai/whisper-base --experts user/whisper-base-el-pl-ru
    distil-whisper transcribe recordings "more/*.wav" --model openai/whisper-base --experts runs/pl \\
        --language pl --word_timestamps --output_format srt --output_dir subtitles

Takes files, folders (with those below) and patterns; video too, where the ffmpeg program is. Each recording takes the
expert of its language, given or detected, and recordings of different languages share batches. What is done already is
left as it is. Ends with status 1 if a recording could not be transcribed; the others are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..languages import language_name
from .command_line import Parser, add_computing
from .mistakes import Failed, program, sentence
from .output_folders import check_output_dir, locked
from .transcription_files import Outputs, Source, find_sources

if TYPE_CHECKING:
    from ..transcription.options import TranscriptionOptions
    from ..transcription.results import Transcription
    from ..transcription.subtitles import SubtitleOptions
    from ..transcription.transcriber import Transcriber

PROGRAM = "distil-whisper transcribe"
FORMATS = ("txt", "vtt", "srt", "tsv", "json")
# As openai-whisper has them.
SHORT = {"-o": "--output_dir", "-f": "--output_format"}


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status, 1 if some recording could not be transcribed."""
    args = _parser().read([SHORT.get(word, word) for word in arguments])
    sources = find_sources(args.files)
    languages = _languages(args.language, len(sources))
    check_output_dir(args.output_dir)

    from ..transcription.options import TranscriptionOptions, temperatures
    from ..transcription.subtitles import SubtitleOptions

    subtitles = SubtitleOptions(args.max_line_width, args.max_line_count, args.max_words_per_line, args.highlight_words)
    if subtitles.need_words and not args.word_timestamps:
        raise ValueError(
            "Expected --word_timestamps beside --highlight_words, --max_line_width, --max_line_count and "
            "--max_words_per_line: they lay out words by their times."
        )
    options = TranscriptionOptions(
        task=args.task,
        expert=args.expert,
        initial_prompt=args.initial_prompt,
        temperature=temperatures(args.temperature, args.temperature_increment_on_fallback),
        beam_size=args.beam_size,
        compression_ratio_threshold=args.compression_ratio_threshold,
        logprob_threshold=args.logprob_threshold,
        no_speech_threshold=args.no_speech_threshold,
        condition_on_previous_text=args.condition_on_previous_text,
        word_timestamps=args.word_timestamps,
        vad_filter=args.vad_filter,
        vad_threshold=args.vad_threshold,
        vad_min_silence_seconds=args.vad_min_silence_duration_ms / 1000,
        vad_pad_seconds=args.vad_speech_pad_ms / 1000,
        seed=args.seed,
    )
    own = {
        source: options if language is None else replace(options, language=language)
        for source, language in zip(sources, languages, strict=True)
    }
    if args.vad_filter:
        # Before the model is opened, whether it is installed.
        import silero_vad  # noqa: F401
    endings = FORMATS if args.output_format == "all" else (args.output_format,)
    with locked(args.output_dir):
        outputs = Outputs(args.output_dir, endings, _settings(args))
        waiting, failed = [], []
        for source in sources:
            if args.overwrite or not outputs.is_done(source):
                waiting.append(source)
        if len(waiting) < len(sources):
            print(f"{len(sources) - len(waiting)} of {len(sources)} recordings are transcribed already.")
        for source in [] if args.overwrite else list(waiting):
            try:
                outputs.check_free(source)
            except OSError as error:
                failed.append(source)
                waiting.remove(source)
                _say_failure(source, error)
        if waiting:
            failed += _run(args, waiting, own, outputs, subtitles)
    if failed:
        raise Failed(f"{len(failed)} of {len(sources)} recordings could not be transcribed (see above).")
    return 0


def _run(
    args: argparse.Namespace,
    sources: Sequence[Source],
    options: dict[Source, TranscriptionOptions],
    outputs: Outputs,
    subtitles: SubtitleOptions,
) -> list[Source]:
    """Transcribe and write; returns those that could not be."""
    from tqdm import tqdm

    from ..transcription.formats import WRITERS
    from ..transcription.recordings import Recording

    transcriber = _transcriber(args)
    lengths = {source: _seconds(source.path) for source in sources}
    # The long ones first: at the end of a run there is nothing to share a batch with.
    ordered = sorted(sources, key=lambda source: -(lengths[source] or float("inf")))
    by_recording = {Recording(str(source.path), options[source]): source for source in ordered}
    failed, seconds, begun = [], 0.0, time.perf_counter()
    known = sum(length or 0.0 for length in lengths.values())
    with tqdm(
        total=round(known) or None,
        unit="s",
        bar_format="{l_bar}{bar}| {n:.0f}/{total} s of audio [{elapsed}<{remaining}]",
        disable=not sys.stderr.isatty(),
    ) as bar:
        transcriber.progress = bar.update
        for outcome in transcriber.stream(by_recording):
            source, found = by_recording[outcome.recording], outcome.transcription
            try:
                if found is None:
                    raise outcome.error or ValueError("no transcription")
                outputs.write(source, [WRITERS[ending](found, subtitles) for ending in outputs.endings])
            except Exception as error:
                if not isinstance(error, (ValueError, OSError, KeyError, ImportError)):
                    raise
                failed.append(source)
                with bar.external_write_mode():
                    _say_failure(source, error)
                continue
            seconds += found.duration
            with bar.external_write_mode():
                print(_line(source, found, outputs), flush=True)
    took = time.perf_counter() - begun
    if seconds:
        print(
            f"{len(sources) - len(failed)} recordings, {seconds:.1f} s of audio in {took:.1f} s: real-time factor "
            f"{took / seconds:.3f} ({seconds / took:.1f} times as fast as speech)."
        )
    return failed


def _transcriber(args: argparse.Namespace) -> Transcriber:
    import torch
    from transformers.utils import logging

    from ..transcription.opening import open_model
    from ..transcription.transcriber import Transcriber

    # Advice to whoever calls `generate` by hand.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    model, processor = open_model(args.model, args.experts, device=args.device, dtype=args.dtype)
    if args.expert not in (None, "shared"):
        model.expert_index(args.expert)
    return Transcriber(model, processor, batch_size=args.batch_size)


def _line(source: Source, found: Transcription, outputs: Outputs) -> str:
    """What is printed of a recording that is finished."""
    how = "given"
    if found.language_probability is not None:
        how = f"detected, {100 * found.language_probability:.0f} %"
    taken = "plain Whisper"
    if found.expert is not None:
        taken = f"expert {found.expert}"
        if found.open_gates is not None:
            encoder, decoder = found.open_gates.encoder, found.open_gates.decoder
            taken += f" (gates open: {100 * encoder:.0f} % of the encoder's, {100 * decoder:.0f} % of the decoder's)"
    speech = "" if found.speech_seconds is None else f", {found.speech_seconds:.1f} s of it speech"
    task = " to English" if found.task == "translate" else ""
    written = ", ".join(path.relative_to(outputs.folder).as_posix() for path in outputs.files(source))
    return (
        f"{source.path.name}: {language_name(found.language)} ({how}){task}, {taken}, {found.duration:.1f} s{speech} "
        f"-> {written}"
    )


def _say_failure(source: Source, error: Exception) -> None:
    sys.stderr.write(f"{PROGRAM}: {source.path.name}: {sentence(error)}\n")


def _languages(given: Sequence[str] | None, count: int) -> list[str | None]:
    """The language of each recording; None detects it."""
    if given is None:
        return [None] * count
    known = [None if one.lower() in ("auto", "none") else one for one in given]
    if len(known) == 1:
        return known * count
    if len(known) != count:
        raise ValueError(
            f"Expected one --language for all recordings or one for each of {count}, got {len(known)}. `auto` detects."
        )
    return known


def _seconds(path: Path) -> float | None:
    """Length of a recording, where its header tells."""
    import soundfile

    try:
        return float(soundfile.info(str(path)).duration)
    except (soundfile.SoundFileError, TypeError):
        return None


def _settings(args: argparse.Namespace) -> str:
    """Digest of all that decides what is written."""
    indifferent = {"files", "output_dir", "output_format", "overwrite", "batch_size", "device", "threads"}
    said = {name: value for name, value in sorted(vars(args).items()) if name not in indifferent}
    for name in ("model", *(f"experts:{one}" for one in args.experts)):
        place = args.model if name == "model" else name.partition(":")[2]
        said[f"files of {name}"] = list(_state(Path(place)))
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=8).hexdigest()


def _state(place: Path) -> Iterator[list[Any]]:
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    for file in files:
        if file.is_file():
            yield [file.name, file.stat().st_size, file.stat().st_mtime_ns]


def _number(text: str) -> float | None:
    """A number, or None for "none", as openai-whisper takes it."""
    return None if text.lower() == "none" else float(text)


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")
    return text.lower() == "true"


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)

    def switch(section: str, name: str, default: bool, text: str) -> None:
        # Alone, or with True or False behind it, as in openai-whisper.
        parser.add_argument(
            name, nargs="?", type=_truth, const=True, default=default, metavar="BOOL", section=section, help=text
        )

    parser.add_argument("files", nargs="+", help="recordings, folders with such, patterns")
    parser.add_argument("--model", required=True, help="a Whisper: folder or Hub name")
    parser.add_argument("--experts", nargs="+", default=[], help="folders or repositories with experts for it")
    parser.add_argument(
        "--language", nargs="+", metavar="NAME", help="of all recordings, or one for each; else detected"
    )
    parser.add_argument("--task", choices=("transcribe", "translate"), default="transcribe", help="or into English")
    parser.add_argument("--expert", metavar="NAME", help="for all, over that of the language; shared: plain Whisper")
    out = "result"
    parser.add_argument("--output_dir", type=Path, default=Path("."), section=out, help="folder, made if needed")
    parser.add_argument("--output_format", choices=(*FORMATS, "all"), default="all", section=out, help="of files")
    parser.add_argument("--overwrite", action="store_true", section=out, help="transcribe again what is done")
    switch(out, "--word_timestamps", False, "find the time of every word")
    switch(out, "--highlight_words", False, "underline each word as it is said, in srt and vtt")
    parser.add_argument("--max_line_width", type=int, section=out, help="characters of a line of subtitles")
    parser.add_argument("--max_line_count", type=int, section=out, help="lines of a subtitle")
    parser.add_argument("--max_words_per_line", type=int, section=out, help="words of a subtitle")
    how = "decoding"
    parser.add_argument("--initial_prompt", section=how, help="text before the first window: names, spellings")
    parser.add_argument("--beam_size", type=int, default=1, section=how, help="at temperature 0; 1 is greedy")
    parser.add_argument("--temperature", type=float, default=0.0, section=how, help="0 takes the likeliest tokens")
    for name, default, text in (
        ("--temperature_increment_on_fallback", 0.2, "step up to 1 where a text is bad; None: no second try"),
        ("--compression_ratio_threshold", 2.4, "a text that zlib makes smaller by more is bad; or None"),
        ("--logprob_threshold", -1.0, "a text of a lower avg_logprob is bad; or None"),
        ("--no_speech_threshold", 0.6, "a bad text under a higher no_speech_prob is silence; or None"),
    ):
        parser.add_argument(name, type=_number, default=default, metavar="X", section=how, help=text)
    switch(how, "--condition_on_previous_text", True, "tell each window the text before it")
    switch(how, "--vad_filter", False, "leave out silence (needs the extra vad)")
    parser.add_argument("--vad_threshold", type=float, default=0.5, rare=True, help="probability of speech")
    parser.add_argument("--vad_min_silence_duration_ms", type=int, default=2000, rare=True, help="shorter stays in")
    parser.add_argument("--vad_speech_pad_ms", type=int, default=400, rare=True, help="silence kept around speech")
    parser.add_argument("--seed", type=int, default=0, rare=True, help="of draws at temperatures above 0")
    run = "run"
    parser.add_argument("--batch_size", type=int, default=8, section=run, help="recordings in work at once")
    add_computing(parser, section=run)
    return parser
