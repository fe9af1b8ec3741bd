"""What transcriptions are made of and written as: windows cut, words timed, audio read in blocks, subtitles, JSON."""

import io
import json
import re
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import soxr
import torch
from speech_files import encoded, tone
from transformers.models.whisper.generation_whisper import _dynamic_time_warping

from distil_whisper_hf.transcription.alignment import first_frames, token_times
from distil_whisper_hf.transcription.formats import WRITERS, to_json, to_srt, to_tsv, to_txt, to_vtt
from distil_whisper_hf.transcription.recordings import Reader, read_blocks
from distil_whisper_hf.transcription.results import OpenGates, Segment, Transcription, Word
from distil_whisper_hf.transcription.subtitles import SubtitleOptions, cues
from distil_whisper_hf.transcription.window_segments import cut_window
from distil_whisper_hf.transcription.words import split_words

BEGIN = 1000


def at(second: float) -> int:
    return BEGIN + round(second / 0.02)


@pytest.mark.parametrize(
    ("tokens", "pieces", "following"),
    [
        # A single time at the end: nothing follows in this window.
        ([at(0), 5, 6, at(2), at(2.4), 7, at(4)], [(0, 2, 0), (2.4, 4, 4)], 30),
        # What was begun behind the last pair is decoded again.
        ([at(0), 5, at(2), at(2), 6, at(9), at(9), 7, 8], [(0, 2, 0), (2, 9, 3)], 9),
        ([at(1), 5, at(2), at(2)], [(1, 2, 0)], 2),
        # No pair: one segment, to the last time if there is one.
        ([at(0), 5, 6], [(0, 30, 0)], 30),
        ([at(0), 5, 6, at(7)], [(0, 7, 0)], 30),
        ([at(0)], [(0, 30, 0)], 30),
        ([], [], 30),
        # Times that do not grow must not hold the window up for ever.
        ([at(0), at(0), 5, 6], [(0, 0, 0)], 30),
    ],
)
def test_windows_are_cut_as_whisper_does(tokens, pieces, following):
    """Silent: words lost or said twice where two windows meet, or a window that never ends."""
    found, behind = cut_window(tokens, timestamp_begin=BEGIN, seconds=30.0)
    assert [(round(one.start, 2), round(one.end, 2), one.first) for one in found] == pieces
    assert all(tuple(tokens[one.first : one.first + len(one.tokens)]) == one.tokens for one in found)
    assert behind == pytest.approx(following)


def test_the_last_window_ends_with_its_audio():
    """Silent: segments behind the end of the recording."""
    found, behind = cut_window([at(0), 5, at(2), at(2.5), 6, at(29)], timestamp_begin=BEGIN, seconds=3.2)
    assert [(one.start, one.end) for one in found] == [(0, 2), (2.5, 3.2)] and behind == 3.2
    found, behind = cut_window([at(0), 5, at(20), at(21), 6], timestamp_begin=BEGIN, seconds=3.2)
    assert [(one.start, one.end) for one in found] == [(0, 3.2)] and behind == 3.2


def test_paths_are_those_of_dynamic_time_warping():
    """Silent: word times of another path than Whisper's."""
    generator = np.random.default_rng(0)
    for tokens, frames in ((1, 7), (5, 5), (6, 40), (30, 200), (9, 1)):
        costs = generator.standard_normal((tokens, frames))
        rows, columns = _dynamic_time_warping(costs)
        wanted = [columns[rows == row].min() for row in range(tokens)]
        assert first_frames(costs).tolist() == wanted


def test_tokens_begin_where_the_decoder_looks():
    """Silent: times of the wrong axis, or shifted by the smoothing."""
    weights = torch.full((2, 4, 80), 0.01)
    for token, (first, last) in enumerate([(0, 20), (20, 30), (30, 60), (60, 80)]):
        weights[:, token, first:last] = 1.0
    assert token_times(weights, median_width=7).tolist() == pytest.approx([0.0, 0.4, 0.6, 1.2], abs=0.041)
    # Too short to be smoothed.
    assert token_times(weights[:, :, :3], median_width=7).tolist()[0] == 0.0


def test_words_are_divided_by_spaces_or_characters(tokenizer):
    """Silent: times of half a character, a full stop as a word, a Japanese sentence as one."""
    text = ' "Hola, món!" ¿qué és? (això)'
    tokens = tokenizer.encode(text, add_special_tokens=False)
    words = split_words(tokenizer, tokens, "ca")
    assert [word.text for word in words] == [' "Hola,', ' món!"', " ¿qué", " és?", " (això)"]
    assert [token for word in words for token in word.tokens] == tokens
    japanese = tokenizer.encode("今日は。", add_special_tokens=False)
    assert [word.text for word in split_words(tokenizer, japanese, "ja")] == ["今", "日", "は。"]
    # Bytes that are no character stay where they are.
    broken = tokenizer.encode(" añ", add_special_tokens=False)[:-1]
    words = split_words(tokenizer, broken, "es")
    assert [token for word in words for token in word.tokens] == broken


@pytest.mark.parametrize(("rate", "extension"), [(16000, "wav"), (44100, "flac"), (8000, "ogg"), (48000, "mp3")])
def test_blocks_are_the_whole(rate, extension, monkeypatch):
    """Silent: seams between blocks: clicks, lost or doubled samples."""
    monkeypatch.setattr("distil_whisper_hf.transcription.recordings.decode_blocks", small_blocks)
    content = encoded(np.stack([tone(3.3, rate=rate), tone(3.3, rate=rate, hertz=330)], axis=1), rate=rate,
                      extension=extension)  # fmt: skip
    samples, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    wanted = soxr.resample(samples.mean(axis=1), rate, 16000) if rate != 16000 else samples.mean(axis=1)
    blocks = list(read_blocks(content, "tones"))
    found = np.concatenate(blocks)
    assert len(blocks) > 3 and abs(len(found) - len(wanted)) <= 1
    length = min(len(found), len(wanted))
    assert np.abs(found[:length] - wanted[:length]).max() < 1e-4


def small_blocks(file, sampling_rate, name):
    from distil_whisper_hf.audio_files import decode_blocks

    return decode_blocks(file, sampling_rate, name, seconds=0.7)


def test_a_reader_gives_windows_and_forgets():
    """Silent: memory that grows with the recording, or windows from the wrong place."""
    whole = np.arange(100_000, dtype=np.float32)
    reader = Reader(iter(np.array_split(whole, 37)))
    for start in (0, 10, 5000, 5000, 60_000, 99_990):
        assert np.array_equal(reader.window(start, 7000), whole[start : start + 7000])
        assert len(reader._held) < 7000 + 60_000
    assert reader.ended and reader.samples == 100_000 and len(reader._held) < 7000
    assert len(reader.window(100_000, 5)) == 0 and not reader.has(100_000)


def test_silence_is_left_out_and_found_again(monkeypatch):
    """Silent: subtitles that are late by the silence before them."""
    from distil_whisper_hf.transcription import speech_only

    rate = 16000
    whole = np.concatenate([np.zeros(5 * rate), np.full(4 * rate, 1.0), np.zeros(6 * rate), np.full(3 * rate, 2.0)])

    class Loudness:
        """As Silero's iterator, of a model that hears what is not zero."""

        def __init__(self):
            self.heard, self.open, self.quiet = 0, False, None

        def __call__(self, frame):
            self.heard += len(frame)
            loud = bool((frame > 0).float().mean() > 0.5)
            if loud:
                self.quiet = None
                if not self.open:
                    self.open = True
                    return {"start": max(0, self.heard - 6400 - 512)}
            elif self.open:
                self.quiet = self.quiet or self.heard
                if self.heard - self.quiet >= 32000:
                    self.open = False
                    return {"end": self.quiet + 6400 - 512}
            return None

    monkeypatch.setattr(speech_only, "_detector", lambda *a: Loudness())
    for pieces in (1, 50, 700):
        speech = speech_only.SpeechOnly(
            iter(np.array_split(whole.astype(np.float32), pieces)), threshold=0.5, min_silence_seconds=2.0,
            pad_seconds=0.4,
        )  # fmt: skip
        found = np.concatenate(list(speech))
        assert (found == 1.0).sum() == 4 * rate and (found == 2.0).sum() == 3 * rate
        assert len(found) == pytest.approx(8.2 * rate, abs=0.1 * rate) and speech.samples_kept == len(found)
        assert speech.samples_read == len(whole)
        for value, second in ((1.0, 5.0), (2.0, 15.0)):
            first = int(np.argmax(found == value))
            assert speech.original(first) == round(second * rate)
        last = int(np.flatnonzero(found == 1.0)[-1]) + 1
        assert speech.original(last, is_end=True) == 9 * rate
        assert speech.original(len(found), is_end=True) == len(whole)


def test_silero_hears_speech():
    """Silent: a detector that is asked in another unit, and that changes the process's threads."""
    pytest.importorskip("silero_vad")
    from distil_whisper_hf.transcription.speech_only import SpeechOnly

    threads = torch.get_num_threads()
    clip, _ = soundfile.read("examples/audio/en.ogg", dtype="float32")
    speech = soxr.resample(clip, _, 16000)
    silence = np.zeros(16000 * 6, np.float32)
    whole = np.concatenate([silence, speech, silence, speech]).astype(np.float32)
    kept = SpeechOnly(np.array_split(whole, 9), threshold=0.5, min_silence_seconds=1.0, pad_seconds=0.2)
    found = np.concatenate(list(kept))
    assert 2 * 3.5 * 16000 < len(found) < 2 * (len(speech) + 0.5 * 16000)
    assert abs(kept.original(0) - 6 * 16000) < 16000
    assert torch.get_num_threads() == threads


def segment(start, end, text, words=None, **changes):
    words = None if words is None else tuple(Word(*word, 0.5) for word in words)
    known = {"tokens": (50364, 400, 50400), "temperature": 0.0, "avg_logprob": -0.25, "compression_ratio": 1.1,
             "no_speech_prob": 0.01, "seek": 0, "id": 0}  # fmt: skip
    return Segment(start=start, end=end, text=text, words=words, **{**known, **changes})


def transcription(*segments, **changes):
    return Transcription(segments, **{"language": "en", "task": "transcribe", "duration": 60.0, **changes})


SPOKEN = transcription(
    segment(0.0, 2.0, " One two, three.", [(" One", 0.1, 0.4), (" two,", 0.4, 0.9), (" three.", 1.2, 1.9)]),
    segment(2.0, 4.5, " Four <b> & five", [(" Four", 2.1, 2.5), (" <b>", 2.5, 2.6), (" &", 2.6, 2.6),
                                           (" five", 2.6, 4.4)]),
    segment(9.0, 9.4, " six --> 7", [(" six", 9.0, 9.2), (" -->", 9.2, 9.3), (" 7", 9.3, 9.4)]),
)  # fmt: skip


def read_srt(text):
    srt = pytest.importorskip("srt")
    found = list(srt.parse(text, ignore_errors=False))
    assert [one.index for one in found] == list(range(1, len(found) + 1))
    return [(one.start.total_seconds(), one.end.total_seconds(), one.content) for one in found]


def read_vtt(text):
    webvtt = pytest.importorskip("webvtt")
    found = webvtt.from_buffer(io.StringIO(text))
    return [(_second(one.start), _second(one.end), one.raw_text) for one in found.captions]


def _second(clock):
    hours, minutes, seconds = clock.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def check_order(found):
    assert all(start < end for start, end, _ in found)
    assert all(before[1] <= after[0] for before, after in pairwise(found))


@pytest.mark.parametrize(
    "options",
    [
        SubtitleOptions(),
        SubtitleOptions(highlight_words=True),
        SubtitleOptions(max_words_per_line=2),
        SubtitleOptions(max_line_width=9),
        SubtitleOptions(max_line_width=9, max_line_count=2),
        SubtitleOptions(max_line_width=9, max_line_count=1, highlight_words=True),
    ],
    ids=str,
)
def test_subtitles_are_valid_and_complete(options):
    """Silent: cues that a player drops: out of order, over each other, of no length, or with signs of the format."""
    found = read_srt(to_srt(SPOKEN, options))
    check_order(found)
    vtt = read_vtt(to_vtt(SPOKEN, options))
    check_order(vtt)
    assert len(vtt) == len(found)
    assert "-->" not in "".join(text for _, _, text in found)
    said = " ".join(text for _, _, text in found).replace("\n", " ")
    if not options.highlight_words:
        assert said.split() == ["One", "two,", "three.", "Four", "<b>", "&", "five", "six", "->", "7"]
    else:
        marked = re.findall(r"<u>(.*?)</u>", said)
        # The sign that takes no time cannot be underlined.
        assert marked == ["One", "two,", "three.", "Four", "<b>", "five", "six", "->", "7"]
    if options.max_line_width:
        assert max(len(re.sub("</?u>", "", line)) for _, _, text in found for line in text.splitlines()) <= 9
    if options.max_line_count:
        assert max(len(text.splitlines()) for _, _, text in found) == options.max_line_count
    if options.max_words_per_line:
        assert max(len(text.split()) for _, _, text in found) == 2
    assert "&amp;" in to_vtt(SPOKEN, options) and "&lt;b&gt;" in to_vtt(SPOKEN, options)


def test_cues_that_overlap_or_have_no_length_are_mended():
    """Silent: subtitles that a strict player refuses as a whole."""
    found = [
        (one.start, one.end, one.text)
        for one in cues(transcription(segment(1, 5, "a"), segment(4, 4, "b"), segment(3, 3.5, "c"), segment(8, 7, "d"),
                                      segment(9, 9.5, " \n ")))
    ]  # fmt: skip
    assert [text for _, _, text in found] == ["a", "b", "c", "d"]
    check_order(found)
    assert found[0][:2] == (1000, 4000) and found[-1][0] == 8000


def test_two_lines_go_on_across_segments_but_not_across_a_pause():
    """Silent: words that are shown seconds before they are said."""
    found = cues(SPOKEN, SubtitleOptions(max_line_width=40, max_line_count=1))
    assert [one.text for one in found] == ["One two, three. Four <b> & five", "six -> 7"]


def test_the_other_formats():
    """Silent: fields that tools of openai-whisper look for in vain."""
    assert to_txt(SPOKEN) == "One two, three.\nFour <b> & five\nsix --> 7\n"
    assert to_tsv(SPOKEN).splitlines()[:2] == ["start\tend\ttext", "0\t2000\tOne two, three."]
    gated = transcription(segment(0.0, 2.0, " bé", open_gates=OpenGates(0.5, 0.25)), expert="ca", language="ca",
                          open_gates=OpenGates(0.4, 0.3))  # fmt: skip
    found = json.loads(to_json(gated))
    assert {"text", "segments", "language"} <= found.keys() and found["text"] == " bé" and found["expert"] == "ca"
    fields = {"id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio",
              "no_speech_prob"}  # fmt: skip
    assert fields <= found["segments"][0].keys() and "words" not in found["segments"][0]
    assert found["segments"][0]["open_gates"] == {"encoder": 0.5, "decoder": 0.25}
    words = json.loads(to_json(SPOKEN))["segments"][0]["words"]
    assert words[0] == {"word": " One", "start": 0.1, "end": 0.4, "probability": 0.5}
    nothing = transcription()
    assert {name: write(nothing, None) for name, write in WRITERS.items() if name != "json"} == {
        "txt": "", "vtt": "WEBVTT\n", "srt": "", "tsv": "start\tend\ttext\n"
    }  # fmt: skip
    assert read_vtt(to_vtt(nothing)) == []
    hour = transcription(segment(3725.5, 3726.25, "late"))
    assert "01:02:05,500 --> 01:02:06,250" in to_srt(hour)


def test_subtitle_options_are_checked():
    """Silent: a layout that is asked for and not made."""
    for wrong in ({"max_line_width": 0}, {"max_line_count": 2}, {"max_words_per_line": 2, "max_line_width": 20}):
        with pytest.raises(ValueError, match="Expected"):
            SubtitleOptions(**wrong)
    with pytest.raises(ValueError, match="times of words"):
        cues(transcription(segment(0, 1, "a")), SubtitleOptions(highlight_words=True))
