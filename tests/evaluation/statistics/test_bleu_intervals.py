"""BLEU of a corpus with its interval."""

import numpy as np
import pytest
import sacrebleu

from distil_whisper_hf.evaluation.statistics.bleu_intervals import bleu_score

REFERENCES = [f"the cat number {index} sat on the mat and looked at the dog" for index in range(12)]
HYPOTHESES = [text.replace("looked", "stared") if index % 3 else text for index, text in enumerate(REFERENCES)]


def test_bleu_is_sacrebleus():
    """Prevents a figure that other people's BLEU cannot be compared with."""
    score = bleu_score(REFERENCES, HYPOTHESES, rng=np.random.default_rng(0))
    expected = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert score.bleu == pytest.approx(expected, abs=1e-9) and score.low < expected < score.high
    assert "tok:13a" in score.signature and score.unit == "utterance" and score.clusters == 12


def test_speakers_are_resampled_where_known():
    """Prevents an interval that takes one talkative speaker for many people."""
    speakers = [str(index // 2) for index in range(12)]
    score = bleu_score(REFERENCES, HYPOTHESES, rng=np.random.default_rng(0), speakers=speakers)
    assert (score.unit, score.clusters) == ("speaker", 6)


def test_what_was_not_translated_counts():
    """Prevents a system from gaining by failing."""
    failed = [None, *HYPOTHESES[1:]]
    score = bleu_score(REFERENCES, failed, rng=np.random.default_rng(0))
    assert score.untranslated == 1
    assert score.bleu < bleu_score(REFERENCES, HYPOTHESES, rng=np.random.default_rng(0)).bleu
    few = bleu_score(REFERENCES[:4], HYPOTHESES[:4], rng=np.random.default_rng(0))
    assert np.isnan([few.low, few.high]).all(), "four utterances give no interval"
    with pytest.raises(ValueError, match="got 11 for 12"):
        bleu_score(REFERENCES, failed[1:], rng=np.random.default_rng(0))
