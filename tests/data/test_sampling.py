"""Fewer clips than there are."""

from distil_whisper_hf.data.clips import Clip
from distil_whisper_hf.data.sampling import choose_clips


def test_a_limit_takes_many_speakers_and_is_nested():
    """Prevents forty clips of one speaker from standing for a data set, and a larger limit from starting anew."""
    clips = [Clip(f"{index}.wav", b"", "bon dia", "ca", speaker=f"s{index % 5}") for index in range(50)]
    chosen = [set(one.id for one in choose_clips(clips, limit)) for limit in (5, 12, 50)]
    assert [len(ids) for ids in chosen] == [5, 12, 50] and chosen[0] < chosen[1] < chosen[2]
    assert len({one.speaker for one in choose_clips(clips, 5)}) == 5
    assert {one.id for one in choose_clips(clips[::-1], 12)} == chosen[1]
