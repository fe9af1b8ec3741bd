"""The record of an utterance."""

from distil_whisper_hf.data.clips import Clip, unique_ids


def test_repeated_ids_become_unique_and_are_counted():
    """Prevents two clips under one id from overwriting each other's hypothesis."""

    def one(name, dataset="d"):
        return Clip(name, b"", "bon dia", "ca", dataset=dataset)

    found, repeated = unique_ids([one("a"), one("a"), one("b"), one("a"), one("a#2"), one("a", "e")])
    assert len({clip.full_id for clip in found}) == len(found) == 6
    assert [clip.id for clip in found][:2] == ["a", "a#3"] and repeated == {"d:a": 3}
