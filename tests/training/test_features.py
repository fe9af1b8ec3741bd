"""Features equal to Whisper's own, and a cache that cannot change them."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors import SafetensorError
from speech_files import tone
from tiny import tiny_feature_extractor
from transformers import WhisperFeatureExtractor

from distil_whisper_hf.data.atomic_files import UnwritableError
from distil_whisper_hf.data.audio import AudioError
from distil_whisper_hf.training.features import (
    FeatureCache,
    encoder_frames,
    fill_window,
    log_mel,
    needs_own_features,
)


def whole_window(samples: np.ndarray, extractor: WhisperFeatureExtractor) -> np.ndarray:
    features = extractor(samples, sampling_rate=16000, return_tensors="np")["input_features"][0]
    assert features.shape == (extractor.feature_size, 3000)
    return features


@pytest.mark.parametrize("mel_bins", [80, 128])
@pytest.mark.parametrize("samples", [1, 159, 160, 161, 401, 5000, 48000, 479599, 479601, 480000])
def test_features_are_those_of_the_whole_window(mel_bins: int, samples: int) -> None:
    """Prevents the end of a clip, or the level of the silence after it, from differing from what Whisper hears."""
    extractor = tiny_feature_extractor(mel_bins)
    noise = np.random.default_rng(samples).standard_normal(samples).astype(np.float32) * 0.1
    for speech in (noise, tone(samples / 16000), np.zeros(samples, np.float32)):
        features = fill_window(log_mel(speech, extractor), extractor)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, whole_window(speech, extractor), rtol=0, atol=1e-6)


def test_only_the_clip_is_transformed() -> None:
    """Prevents the short cut from being lost unnoticed: fifteen times the work for a clip of two seconds."""
    assert log_mel(tone(2.0), tiny_feature_extractor()).shape == (80, 203)


def test_dither_is_noise_over_the_whole_window() -> None:
    """Prevents one noisy frame repeated for 28 s, where dither asks for noise in each."""
    features = log_mel(tone(2.0), WhisperFeatureExtractor(dither=0.01))
    assert features.shape == (80, 3000)
    assert len(np.unique(features[:, -100:], axis=1).T) == 100


@pytest.mark.parametrize("samples", [0, 480001])
def test_clips_that_do_not_fit_are_refused(samples: int) -> None:
    """Prevents the end of a long clip from being cut off while its text stays whole."""
    with pytest.raises(AudioError, match="at most 30 s and at least one sample"):
        log_mel(np.zeros(samples, np.float32), tiny_feature_extractor())


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (320, 1), (321, 2), (16000, 50), (480000, 1500)])
def test_encoder_frames(samples: int, frames: int) -> None:
    """Prevents frames of the features (100 a second) from being taken for frames of the encoder (50 a second)."""
    assert encoder_frames(samples, tiny_feature_extractor()) == frames


def test_a_teacher_with_other_mel_bins_needs_its_own_features() -> None:
    """Prevents large-v3 from hearing 80 bins, and a teacher whose frames are other pieces of time."""
    student = tiny_feature_extractor()
    assert not needs_own_features(student, tiny_feature_extractor())
    assert needs_own_features(student, tiny_feature_extractor(128))
    with pytest.raises(ValueError, match="same chunk_length, got 30 and 10"):
        needs_own_features(student, WhisperFeatureExtractor(chunk_length=10))
    with pytest.raises(ValueError, match="same hop_length, got 160 and 320"):
        needs_own_features(student, WhisperFeatureExtractor(hop_length=320))


def test_the_cache_gives_back_what_it_was_given(tmp_path) -> None:
    """Prevents rounding in the cache, by which a cached run would differ from one that is not."""
    extractor, cache = tiny_feature_extractor(), FeatureCache(tmp_path)
    features = log_mel(tone(1.0), extractor)
    assert cache.get("ab" * 16, extractor) is None
    cache.put("ab" * 16, extractor, features, 50)
    found, frames = FeatureCache(tmp_path).get("ab" * 16, extractor)
    assert found.dtype == np.float32
    assert np.array_equal(found, features)
    assert frames == 50
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".safetensors"]


def test_the_cache_keeps_kinds_of_features_apart(tmp_path) -> None:
    """Prevents 80 bins of an earlier run from being served to a teacher that wants 128."""
    cache = FeatureCache(tmp_path)
    cache.put("ab" * 16, tiny_feature_extractor(), log_mel(tone(1.0), tiny_feature_extractor()), 50)
    for other in (tiny_feature_extractor(128), WhisperFeatureExtractor(chunk_length=20)):
        assert cache.get("ab" * 16, other) is None
    with pytest.raises(ValueError, match=r"without dither for a cache, got dither 0\.1"):
        cache.put("ab" * 16, WhisperFeatureExtractor(dither=0.1), np.zeros((80, 3), np.float32), 1)


def test_a_damaged_file_of_the_cache_is_made_again(tmp_path) -> None:
    """Prevents a disk that ran full from stopping all later runs."""
    cache, extractor = FeatureCache(tmp_path), tiny_feature_extractor()
    features = log_mel(tone(1.0), extractor)
    cache.put("ab" * 16, extractor, features, 50)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    assert cache.get("ab" * 16, extractor) is None
    cache.put("ab" * 16, extractor, features, 50)
    assert np.array_equal(cache.get("ab" * 16, extractor)[0], features)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, monkeypatch) -> None:
    def full(*_, **__) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("distil_whisper_hf.training.features.save_file", full)
    with pytest.raises(UnwritableError, match=r"No space left on device.*make room"):
        FeatureCache(tmp_path).put("ab" * 16, tiny_feature_extractor(), np.zeros((80, 4), dtype=np.float32), 2)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
