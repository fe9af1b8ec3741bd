"""Short clips joined into windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from speech_files import write

from distil_whisper_hf.data.audio import JoinedAudio, audio_digest, audio_seconds, read_audio
from distil_whisper_hf.data.clips import Clip
from distil_whisper_hf.data.joining import GAP_SECONDS, WindowStyle, join_clips
from distil_whisper_hf.data.labels import LabelBuilder


@pytest.fixture(scope="module")
def labels(tokenizer) -> LabelBuilder:
    return LabelBuilder(tokenizer)


def clip(number: int, seconds: float, text: str = "hola", language: str = "ca", **changes) -> Clip:
    # Three tokens of prompt, a space and the text's letters, the end.
    labels = tuple(range(5 + len(text)))
    made = Clip(f"c{number}", f"c{number}.wav", text, language, seconds=seconds, digest=f"d{number}", labels=labels)
    return replace(made, **changes)


def parts(joined: Clip) -> list[str]:
    return joined.id.split("+")


def test_every_clip_is_used_once_and_fits(labels):
    """Silent: clips lost at the end of a group, used twice, or windows that are cut."""
    clips = [clip(i, 1.0 + i % 7) for i in range(40)]
    joined = join_clips(clips, labels=labels, max_seconds=20.0)
    assert sorted(name for one in joined for name in parts(one)) == sorted(c.id for c in clips)
    assert all(one.seconds <= 20.0 for one in joined)
    assert len(joined) < 30
    lengths = {c.id: c.seconds for c in clips}
    for one in joined:
        names = parts(one)
        assert one.seconds == pytest.approx(sum(lengths[n] for n in names) + GAP_SECONDS * (len(names) - 1))
        assert one.text == " ".join(["hola"] * len(names))


def test_languages_experts_and_speakers_stay_apart(labels):
    """Silent: a window whose second half is in another language than its prompt."""
    kinds = [{"language": "ca"}, {"language": "gl"}, {"expert": "sc"}, {"speaker": "a"}]
    clips = [clip(i, 1.0, **kinds[i % 4]) for i in range(40)]
    of = {c.id: (c.language, c.expert, c.speaker) for c in clips}
    for one in join_clips(clips, labels=labels):
        assert {of[name] for name in parts(one)} == {(one.language, one.expert, one.speaker)}


def test_texts_stay_within_the_decoder(labels):
    """Silent: labels of more than 448 tokens, which Whisper refuses in the middle of a run."""
    clips = [clip(i, 0.5, text="x" * 150) for i in range(10)]
    joined = join_clips(clips, labels=labels)
    assert max(len(labels(one.text, language="ca")) for one in joined) <= 447
    assert any(len(parts(one)) == 2 for one in joined)


def test_joining_is_the_same_everywhere_and_differs_by_copy(labels):
    """Silent: windows that change between a run and its continuation, or copies that repeat each other."""
    clips = [clip(i, 1.0 + i % 3) for i in range(30)]
    one, again = (join_clips(clips, labels=labels, seed=1) for _ in range(2))
    assert one == again != join_clips(clips, labels=labels, seed=2)
    twice = join_clips(clips, labels=labels, copies=2)
    assert sorted(name for j in twice for name in parts(j)) == sorted([c.id for c in clips] * 2)
    assert len({j.id for j in twice}) > len(twice) // 2


def test_a_long_clip_stays_alone(labels):
    """Silent: a clip that is longer than the limit dropped, or an empty window before it."""
    joined = join_clips([clip(0, 25.0), clip(1, 1.0)], labels=labels, max_seconds=10.0)
    assert sorted(one.id for one in joined) == ["c0", "c1"]


def test_joined_audio_is_its_parts_with_silence_between(tmp_path):
    """Silent: parts in another order or at another rate, a gap in samples of the wrong rate, one digest for all."""
    paths = [str(write(tmp_path / name, seconds, rate=rate)) for name, seconds, rate in
             (("a.wav", 0.5, 16000), ("b.flac", 0.25, 8000))]  # fmt: skip
    joined = JoinedAudio(tuple(paths), 0.1)
    samples = read_audio(joined, sampling_rate=16000)
    first, second = (read_audio(path, sampling_rate=16000) for path in paths)
    assert np.array_equal(samples, np.concatenate([first, np.zeros(1600, np.float32), second]))
    assert audio_seconds(joined) == pytest.approx(0.85)
    assert audio_digest(joined) == audio_digest(JoinedAudio(tuple(paths), 0.1))
    assert audio_digest(joined) != audio_digest(JoinedAudio(tuple(reversed(paths)), 0.1))


def test_clips_that_are_not_screened_are_refused(labels):
    """Silent: windows of unknown length."""
    with pytest.raises(ValueError, match="Clip c0 has no length"):
        join_clips([replace(clip(0, 1.0), seconds=None)], labels=labels)
    with pytest.raises(ValueError, match=r"max_seconds in \(0, 30\]"):
        join_clips([], labels=labels, max_seconds=31.0)


def said(labels: LabelBuilder, ids, tokenizer) -> str:
    return tokenizer.decode(list(ids), decode_with_timestamps=True)


def test_windows_say_when_their_clips_begin_and_end(labels, tokenizer):
    """Silent: times that do not count the silence between clips, or drift; `<|notimestamps|>` beside times."""
    clips = [clip(i, 1.5 + i, text=text) for i, text in enumerate(("u", "dos", "tres"))]
    style = WindowStyle(timestamps=1.0)
    windows = join_clips(clips, labels=labels, max_seconds=28.0, copies=5, style=style)
    (whole, *_) = (one for one in windows if len(parts(one)) == 3)
    order = [int(name.removeprefix("c")) for name in parts(whole)]
    wanted, begin = "<|ca|><|transcribe|>", 0.0
    for number in order:
        end = begin + 1.5 + number
        wanted += f"<|{begin:.2f}|> {clips[number].text}<|{end:.2f}|>"
        begin = end + GAP_SECONDS
    assert said(labels, whole.labels, tokenizer) == f"{wanted}<|endoftext|>"
    single = next(one for one in windows if len(parts(one)) == 1)
    assert said(labels, single.labels, tokenizer).startswith("<|ca|><|transcribe|><|0.00|>")


def test_a_share_of_the_windows_has_times_and_earlier_text(labels, tokenizer):
    """Silent: all windows or none; a style that changes what is joined; text of another speaker as a prompt."""
    clips = [clip(i, 2.0, text=f"text{i}", speaker="ab"[i % 2]) for i in range(400)]
    clips = [replace(one, labels=tuple(labels(one.text, language="ca"))) for one in clips]
    plain = join_clips(clips, labels=labels, max_seconds=8.0)
    styled = join_clips(clips, labels=labels, max_seconds=8.0, style=WindowStyle(0.5, 0.25))
    assert [(one.id, one.digest) for one in styled] == [(one.id, one.digest) for one in plain]
    assert all(one.previous == () for one in plain)
    timed = [one for one in styled if "<|notimestamps|>" not in said(labels, one.labels, tokenizer)]
    prompted = [one for one in styled if one.previous]
    assert 0.4 < len(timed) / len(styled) < 0.6 and 0.17 < len(prompted) / len(styled) < 0.33
    assert {bool(one.previous) for one in timed} == {True, False}
    speaker_of = {one.text: one.speaker for one in clips}
    for one in prompted:
        words = said(labels, one.previous, tokenizer).removeprefix("<|startofprev|>").split()
        assert {speaker_of[word] for word in words} == {one.speaker}
        assert not set(words) & set(one.text.split())
    assert styled == join_clips(clips, labels=labels, max_seconds=8.0, style=WindowStyle(0.5, 0.25))


def test_earlier_text_leaves_room_for_the_window_s_own(labels, tokenizer):
    """Silent: inputs longer than the decoder's 448 positions; a prompt of the text's begin in place of its end."""
    clips = [clip(i, 0.5, text="x" * 390 + f" end{i}") for i in range(6)]
    windows = join_clips(clips, labels=labels, style=WindowStyle(1.0, 1.0))
    prompted = [one for one in windows if one.previous]
    assert len(prompted) == 5
    for one in prompted:
        assert len(one.previous) + len(one.labels) <= 448
        assert "end" in said(labels, one.previous, tokenizer)


def test_probabilities_out_of_range_are_refused():
    """Silent: a share of 50 taken for all."""
    with pytest.raises(ValueError, match="probability of timestamps from 0 to 1, got 50"):
        WindowStyle(timestamps=50)
    with pytest.raises(ValueError, match="probability of previous text from 0 to 1, got -1"):
        WindowStyle(previous=-1)
