"""Short clips joined into windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from speech_files import write

from distil_whisper_hf.data.audio import JoinedAudio, audio_digest, audio_seconds, read_audio
from distil_whisper_hf.data.clips import Clip
from distil_whisper_hf.data.joining import GAP_SECONDS, join_clips
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
