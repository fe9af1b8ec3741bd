"""Test scores of a training run, on transcripts written by hand."""

from __future__ import annotations

from distil_whisper_hf.commands import final_scores
from distil_whisper_hf.data.clips import Clip


def test_one_loop_does_not_decide_the_capped_rate():
    """Silent: a cap on the sum, which a loop still fills, or on rows of another language."""
    clips = [Clip(f"c{i}", b"", text, "ca") for i, text in enumerate(["bon dia", "una dues", "fins aviat"])]
    clips.append(Clip("g0", b"", "boas noites", "gl"))
    texts = ["bon dia", "una " * 30, "fins", "boas boas boas"]
    catalan, galician = final_scores.score_rows(
        final_scores.score(clips, texts, system="x"), dataset="calls", domain="in"
    )
    # 0, 29 and 1 errors for 2 words each; the loop counts for 2 at most.
    assert (round(catalan.wer, 1), round(catalan.wer_capped, 1), catalan.loops) == (500.0, 50.0, 1)
    assert (round(galician.wer, 1), round(galician.wer_capped, 1), galician.loops) == (100.0, 100.0, 0)
    assert "| calls | in | ca | x | 500.0 | 50.0 |" in final_scores.table([catalan, galician])
