"""The map between vocabularies, for all three layouts that Whisper has."""

from __future__ import annotations

import pytest
import torch
from tiny import SPECIAL_IDS

from distil_whisper_hf.training.vocabulary import map_vocabulary

MULTILINGUAL, LARGE_V3, ENGLISH_ONLY = 51865, 51866, 51864


@pytest.fixture(scope="module")
def multilingual(tokenizer) -> dict[str, int]:
    return tokenizer.get_vocab()


@pytest.fixture(scope="module")
def large_v3(multilingual) -> dict[str, int]:
    """One more language behind the last one; every token after it moves by one. Older tokenizers say nocaptions."""
    last = SPECIAL_IDS["<|su|>"]
    shifted = {token: i + (i > last) for token, i in multilingual.items()}
    return {**shifted, "<|yue|>": last + 1}


def english_only(multilingual: dict[str, int]) -> dict[str, int]:
    """Other words, one fewer of them, so that every special token has an id one lower."""
    end = multilingual["<|endoftext|>"]
    special = {token: i - 1 for token, i in multilingual.items() if i >= end}
    return {**special, **{f"english{i}": i for i in range(end - 1)}}


def test_the_same_layout_maps_to_itself(multilingual) -> None:
    """Prevents a copy of 51865 logits for every token where nothing has to move, and any change of them."""
    same = map_vocabulary(multilingual, multilingual, student_size=MULTILINGUAL, teacher_size=MULTILINGUAL)
    labels, logits = torch.tensor([[5, -100]]), torch.randn(1, 2, MULTILINGUAL)
    assert same.is_identity
    assert same.dropped == ()
    assert same.teacher_ids(labels) is labels
    assert same.student_logits(logits) is logits


def test_large_v3_maps_every_token_to_its_name(multilingual, large_v3) -> None:
    """Prevents the silent off-by-one after <|yue|>: 'transcribe' read as 'translate', 0.02 s as 0.00 s."""
    mapping = map_vocabulary(multilingual, large_v3, student_size=MULTILINGUAL, teacher_size=LARGE_V3)
    assert not mapping.is_identity
    assert mapping.dropped == ("<|yue|>",)
    names = {i: token for token, i in large_v3.items()}
    wrong = [token for token, i in multilingual.items() if names[int(mapping.student_to_teacher[i])] != token]
    assert wrong == []
    prompt = ["<|ca|>", "<|transcribe|>", "<|notimestamps|>", "<|0.02|>", "<|endoftext|>"]
    labels = torch.tensor([[*(multilingual[token] for token in prompt), -100], [300, 1, 2, 3, 4, -100]])
    mapped = mapping.teacher_ids(labels)
    assert mapped.tolist() == [[*(large_v3[token] for token in prompt), -100], [300, 1, 2, 3, 4, -100]]
    assert mapped[0, 0] == labels[0, 0]
    assert mapped[0, 1] == labels[0, 1] + 1


def test_logits_come_back_under_the_same_names_and_renormalised(multilingual, large_v3) -> None:
    """Prevents probability given to the token next door, and a dropped token that still takes its share."""
    mapping = map_vocabulary(multilingual, large_v3, student_size=MULTILINGUAL, teacher_size=LARGE_V3)
    logits = torch.randn(2, 3, LARGE_V3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[..., large_v3["<|yue|>"]] = 9.0
    full, mapped = logits.softmax(-1), mapping.student_logits(logits)
    assert mapped.shape == (2, 3, MULTILINGUAL)
    for token in ("Ġw400", "<|ca|>", "<|su|>", "<|translate|>", "<|transcribe|>", "<|0.00|>", "<|30.00|>"):
        assert torch.equal(mapped[..., multilingual[token]], logits[..., large_v3[token]])
    share = 1 - full[..., large_v3["<|yue|>"]]
    assert share.max() < 0.95
    expected = full[..., large_v3["<|transcribe|>"]] / share
    torch.testing.assert_close(mapped.softmax(-1)[..., multilingual["<|transcribe|>"]], expected)


def test_one_token_with_two_spellings_is_one_token(multilingual, large_v3) -> None:
    """Prevents large-v3 being refused as teacher of small or large-v2, which call <|nospeech|> <|nocaptions|>."""
    assert "<|nospeech|>" in multilingual
    older = {token.replace("nospeech", "nocaptions"): i for token, i in multilingual.items()}
    mapping = map_vocabulary(older, large_v3, student_size=MULTILINGUAL, teacher_size=LARGE_V3)
    assert mapping.student_to_teacher[older["<|nocaptions|>"]] == large_v3["<|nospeech|>"]
    assert mapping.dropped == ("<|yue|>",)
    assert map_vocabulary(multilingual, older, student_size=MULTILINGUAL, teacher_size=MULTILINGUAL).is_identity


def test_padded_outputs_of_a_teacher_are_dropped(multilingual) -> None:
    """Prevents the nameless outputs of a padded output layer from taking probability."""
    mapping = map_vocabulary(multilingual, multilingual, student_size=MULTILINGUAL, teacher_size=51904)
    assert not mapping.is_identity
    logits = torch.zeros(1, 51904)
    logits[:, MULTILINGUAL:] = 50.0
    assert mapping.student_logits(logits).shape == (1, MULTILINGUAL)
    assert mapping.student_logits(logits).max() == 0.0


def test_the_map_moves_between_devices_as_a_whole(multilingual, large_v3) -> None:
    """Prevents an index left on the CPU, copied to the accelerator again at each step."""
    mapping = map_vocabulary(multilingual, large_v3, student_size=MULTILINGUAL, teacher_size=LARGE_V3)
    moved = mapping.to("meta")
    assert moved.student_to_teacher.device.type == "meta"
    assert (moved.teacher_size, moved.dropped) == (LARGE_V3, ("<|yue|>",))


def test_english_only_and_multilingual_are_refused(multilingual) -> None:
    """Prevents distilling positions of one segmentation into those of another: a loss that falls and teaches noise."""
    english = english_only(multilingual)
    assert len(english) == ENGLISH_ONLY
    with pytest.raises(ValueError, match=r"split text differently: 50257 and 50256 text tokens.*English-only 50256"):
        map_vocabulary(multilingual, english, student_size=MULTILINGUAL, teacher_size=ENGLISH_ONLY)
    with pytest.raises(ValueError, match=r"50256 and 50257 text tokens"):
        map_vocabulary(english, multilingual, student_size=ENGLISH_ONLY, teacher_size=MULTILINGUAL)
    assert map_vocabulary(english, english, student_size=ENGLISH_ONLY, teacher_size=ENGLISH_ONLY).is_identity


def test_a_student_token_that_the_teacher_lacks_is_refused(multilingual, large_v3) -> None:
    """Prevents an arbitrary teacher logit in the place of a token that the teacher does not have."""
    with pytest.raises(ValueError, match=r"teacher \(51865 outputs\) lacks 1 of the student's 51866 tokens: <\|yue\|>"):
        map_vocabulary(large_v3, multilingual, student_size=LARGE_V3, teacher_size=MULTILINGUAL)


def test_swapped_words_are_refused(multilingual) -> None:
    """Prevents trusting sizes: a vocabulary of the same size with two ids swapped is another vocabulary."""
    swapped = {**multilingual, "Ġw400": multilingual["Ġw401"], "Ġw401": multilingual["Ġw400"]}
    with pytest.raises(ValueError, match=r"2 of them not alike, such as 'Ġw400' \(student id 400, teacher id 401\)"):
        map_vocabulary(multilingual, swapped, student_size=MULTILINGUAL, teacher_size=MULTILINGUAL)


def test_a_tokenizer_that_does_not_fit_its_model_is_refused(multilingual) -> None:
    """Prevents unnamed outputs of the student (a tokenizer without timestamps) from being mapped by guess."""
    short = {token: i for token, i in multilingual.items() if i <= SPECIAL_IDS["<|notimestamps|>"]}
    with pytest.raises(ValueError, match=r"student's tokenizer names 50364 tokens and its model has 51865 outputs"):
        map_vocabulary(short, multilingual, student_size=MULTILINGUAL, teacher_size=MULTILINGUAL)
    with pytest.raises(ValueError, match=r"teacher's tokenizer names 51865 tokens and its model has 51864"):
        map_vocabulary(multilingual, multilingual, student_size=MULTILINGUAL, teacher_size=ENGLISH_ONLY)
    with pytest.raises(ValueError, match=r"student's 1 tokens lack <\|endoftext\|>"):
        map_vocabulary({"a": 0}, multilingual, student_size=1, teacher_size=MULTILINGUAL)
    gap = {**multilingual, "<|30.00|>": 60000}
    with pytest.raises(ValueError, match="ids 0 to 51864, each of them once"):
        map_vocabulary(multilingual, gap, student_size=MULTILINGUAL, teacher_size=60001)


def test_logits_of_another_teacher_are_refused(multilingual, large_v3) -> None:
    """Prevents a map made for large-v3 from picking shifted logits out of a large-v2 teacher."""
    mapping = map_vocabulary(multilingual, large_v3, student_size=MULTILINGUAL, teacher_size=LARGE_V3)
    with pytest.raises(ValueError, match="Expected 51866 teacher logits for each position, got 51865"):
        mapping.student_logits(torch.zeros(1, 1, MULTILINGUAL))
