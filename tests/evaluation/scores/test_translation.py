"""N-gram counts of translations and the BLEU that they add up to."""

import numpy as np
import pytest
import sacrebleu

from distil_whisper_hf.evaluation.scores.translation import bleu, ngram_counts

REFERENCES = ["the cat sat on the mat", "it looked at the dog", "nobody came"]
HYPOTHESES = ["the cat sat on a mat", "it looked at the dog", ""]


def test_counts_are_those_of_the_definition():
    """Prevents a column taken for another: a corpus' BLEU would be off, and nobody could tell."""
    counts, signature = ngram_counts(REFERENCES, HYPOTHESES)
    # First: the, cat, sat, on, mat; the cat, cat sat, sat on; the cat sat, cat sat on; the cat sat on.
    assert counts.tolist() == [[5, 3, 2, 1, 6, 5, 4, 3, 6, 6], [5, 4, 3, 2, 5, 4, 3, 2, 5, 5], [0] * 9 + [2]]
    assert "tok:13a" in signature


def test_bleu_of_sums_is_sacrebleus_of_the_corpus():
    """Prevents a mean of sentences' BLEU in place of the corpus' own, which other people's cannot be compared with."""
    counts, _ = ngram_counts(REFERENCES, HYPOTHESES)
    expected = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert bleu(counts.sum(axis=0)) == pytest.approx(expected, abs=1e-9)
    assert bleu(np.zeros(10, dtype=np.int64)) == 0.0


def test_lists_that_do_not_pair_are_refused():
    """Prevents a score of hypotheses beside other clips' references."""
    for references, hypotheses in ((REFERENCES, HYPOTHESES[1:]), ([], [])):
        with pytest.raises(ValueError, match=f"got {len(hypotheses)} for {len(references)}"):
            ngram_counts(references, hypotheses)
