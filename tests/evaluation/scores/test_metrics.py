import csv
import math
import os
import random
import zlib
from pathlib import Path

import pytest

from distil_whisper_hf.evaluation.scores.metrics import (
    ErrorCounts,
    aggregate,
    character_counts,
    compression_ratio,
    find_repetition,
    longest_repetition,
    primary_metric,
    score_utterance,
    scored_utterances,
    word_counts,
)
from distil_whisper_hf.evaluation.scores.normalization import get_normalizer

UNICODE = get_normalizer("unicode")


def levenshtein(reference, hypothesis):
    """Fewest single-unit edits, from the recursive definition."""
    row = list(range(len(hypothesis) + 1))
    for i, r in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, h in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (r != h))
    return row[-1]


def score(reference, hypothesis, **options):
    return score_utterance(reference, hypothesis, normalizer=options.pop("normalizer", UNICODE), **options)


def test_counts_agree_with_the_definition():
    """A swapped reference and hypothesis keeps the number of errors but not the lengths: check all identities."""
    generator = random.Random(3)
    for _ in range(300):
        reference = [generator.choice("abcd") * generator.randint(1, 2) for _ in range(generator.randint(0, 9))]
        hypothesis = [generator.choice("abcd") * generator.randint(1, 2) for _ in range(generator.randint(0, 12))]
        texts = " ".join(reference), " ".join(hypothesis)
        words, characters = word_counts(*texts), character_counts(*texts)
        assert words.errors == levenshtein(reference, hypothesis)
        assert words.reference_length == len(reference)
        assert words.hits + words.substitutions + words.insertions == len(hypothesis)
        assert characters.errors == levenshtein(*texts)
        assert characters.reference_length == len(texts[0])
        unspaced = character_counts(*texts, spaces=False)
        assert unspaced.errors == levenshtein("".join(reference), "".join(hypothesis))


def test_rates_are_percentages_of_reference_units():
    """0.5 printed as a percentage would be a hundred times too good."""
    result = score("a b c d", "a x c d e")
    assert result.words == ErrorCounts(hits=3, substitutions=1, insertions=1, deletions=0)
    assert result.words.rate == 50.0
    assert score("a", "b c d").words.rate == 300.0
    assert math.isnan(ErrorCounts().rate)


def test_words_are_counted_after_normalisation_and_its_label_is_kept():
    result = score("L’home, AQUÍ!", "l'home aquí", language="ca")
    assert result.words.errors == 0 and result.normalized_reference == "l'home aquí"
    assert result.reference == "L’home, AQUÍ!" and result.normalizer == "unicode"
    assert score("L’home", "l'home", normalizer=get_normalizer("none")).words.errors == 1


def test_characters_of_unspaced_languages_are_counted_without_spaces():
    """Where spaces are arbitrary, a space more or less must not be a recognition error."""
    assert score("ฉันกินข้าว", "ฉัน กิน ข้าว", language="th").characters.errors == 0
    assert score("ab cd", "abcd", language="ca").characters.errors == 1


def test_primary_metric():
    assert [primary_metric(language) for language in ("th", "zh", "ca", None)] == ["cer", "cer", "wer", "wer"]


def test_corpus_rate_is_pooled_and_not_the_mean_of_utterances():
    """The mean over utterances weighs a one-word clip as much as a paragraph."""
    scores = [score("a", "b"), score("a b c d e f g h i", "a b c d e f g h i")]
    (corpus,) = aggregate(scores, by=())
    assert corpus.wer == pytest.approx(100 / 10)
    assert corpus.words == ErrorCounts(hits=9, substitutions=1)
    assert corpus.cer == pytest.approx(100 / 18)


def test_groups_by_any_key():
    rows = [("ca", "m", "a b", "a b"), ("uk", "f", "a b", "a x"), ("ca", "f", "a b c", "a"), ("uk", "f", "a", "a")]
    scores = [
        score(reference, hypothesis, utterance_id=str(i), language=language, speaker=gender, labels={"gender": gender})
        for i, (language, gender, reference, hypothesis) in enumerate(rows)
    ]
    by_language = {cell.key["language"]: cell for cell in aggregate(scores, by=["language"])}
    assert list(by_language) == ["ca", "uk"]
    assert by_language["ca"].wer == pytest.approx(40.0) and by_language["ca"].speakers == 2
    assert by_language["uk"].words.errors == 1 and by_language["uk"].speakers == 1
    both = aggregate(scores, by=["language", "gender"])
    assert [tuple(cell.key.values()) for cell in both] == [("ca", "m"), ("uk", "f"), ("ca", "f")]
    with pytest.raises(ValueError, match=r"'accent'.*gender"):
        aggregate(scores, by=["accent"])


def test_systems_and_normalisers_are_never_pooled():
    """One figure over two systems, or over two ways of counting words, describes neither."""
    with pytest.raises(ValueError, match=r"several systems.*base.*small"):
        aggregate([score("a", "a", system="base"), score("a", "b", system="small")], by=["language"])
    with pytest.raises(ValueError, match="several normalizers"):
        aggregate([score("a", "a"), score("a", "b", normalizer=get_normalizer("none"))], by=["language"])


def test_empty_references_are_listed_and_their_insertions_counted_apart():
    """Silence in which the model hallucinates must neither vanish nor divide by zero nor enter the rate."""
    scores = [
        score("a b", "a c", utterance_id="speech"),
        score("...", "thanks for watching", utterance_id="silence"),
        score("", "", utterance_id="quiet"),
    ]
    (corpus,) = aggregate(scores, by=())
    assert corpus.utterances == 3 and corpus.scored == 1
    assert corpus.wer == 50.0 and corpus.words.insertions == 0
    assert corpus.empty_references == ("silence", "quiet")
    assert corpus.empty_reference_words == ErrorCounts(insertions=3)
    assert corpus.empty_reference_characters == ErrorCounts(insertions=len("thanks for watching"))
    (nothing,) = aggregate(scores[1:], by=())
    assert math.isnan(nothing.wer) and nothing.scored == 0


def test_untranscribed_utterances_are_deletions_and_listed():
    """A system that fails on hard clips would look better than one that tries them."""
    scores = [score("a b c", "a b c", utterance_id="1"), score("d e f", None, utterance_id="2")]
    (corpus,) = aggregate(scores, by=())
    assert corpus.wer == 50.0 and corpus.words.deletions == 3
    assert corpus.untranscribed == ("2",) and (corpus.utterances, corpus.scored) == (2, 2)
    assert scored_utterances(scores) == scores
    assert score("d e f", "").transcribed, "an empty hypothesis is a hypothesis"


def test_duplicates_are_named():
    scores = [score("a", "a", utterance_id=name) for name in ("x", "y", "x")]
    (corpus,) = aggregate(scores, by=())
    assert corpus.duplicates == ("x",) and corpus.utterances == 3


def test_missing_reference_is_refused():
    with pytest.raises(TypeError, match="clip-7"):
        score(None, "a", utterance_id="clip-7")


def test_unknown_metric_raises():
    assert score("a b", "a").counts("cer").reference_length == 3
    with pytest.raises(ValueError, match="'wer', 'cer'"):
        score("a", "a").counts("mer")


@pytest.mark.parametrize(
    ("text", "repeats", "ngram"),
    [
        ("", 0, ""),
        ("a", 1, "a"),
        ("a b c", 1, "a"),
        ("a a", 2, "a"),
        ("x a b a b a b a", 3, "a b"),
        ("a b c a b c", 2, "a b c"),
        ("a b a a a b", 3, "a"),
    ],
)
def test_longest_repetition(text, repeats, ngram):
    assert longest_repetition(text.split()) == (repeats, tuple(ngram.split()))


def test_longest_repetition_against_a_search_by_definition():
    generator = random.Random(5)
    for _ in range(200):
        units = [generator.choice("ab") for _ in range(generator.randint(1, 14))]
        best = 1
        for n in range(1, 8):
            for start in range(len(units)):
                copies = 1
                while units[start : start + n] == units[start + copies * n : start + (copies + 1) * n] != []:
                    copies += 1
                if len(units[start : start + n]) == n:
                    best = max(best, copies)
        assert longest_repetition(units)[0] == best, units


def repetition(hypothesis, reference="something else", language=None):
    return find_repetition(
        hypothesis,
        normalized_hypothesis=UNICODE(hypothesis),
        normalized_reference=UNICODE(reference),
        language=language,
    )


def test_loops():
    """Loops make most of the error rate of very short clips; they are a different failure from a wrong word."""
    assert repetition("Thank you. Thank you. Thank you. Thank you.").is_loop
    assert repetition("Thank you. Thank you. Thank you. Thank you.").ngram == "thank you"
    assert not repetition("Thank you. Thank you. Thank you.").is_loop
    assert repetition("o" * 200).is_loop, "one endless word is found by compression only"
    assert not repetition("the quick brown fox jumps over the lazy dog").is_loop
    assert not repetition("").is_loop


def test_what_was_said_is_not_a_loop():
    """Digit strings and laughter repeat themselves in the reference too."""
    assert not repetition("нуль нуль нуль нуль п'ять", "нуль нуль нуль нуль п'ять").is_loop
    assert repetition("нуль " * 40, "нуль нуль нуль нуль п'ять").is_loop
    long_text = "so it goes and " * 30
    assert compression_ratio(long_text) > 2.4
    assert not repetition(long_text, long_text).is_loop


def test_loops_in_unspaced_scripts_are_counted_in_characters():
    assert repetition("ขอบคุณ" * 4, language="th").is_loop
    assert not repetition("1000000", "หนึ่งล้าน", language="th").is_loop


def test_compression_ratio_is_that_of_whisper():
    text = "ні ні ні ні ні ні ні ні ні ні ні ні"
    assert compression_ratio(text) == len(text.encode()) / len(zlib.compress(text.encode()))


@pytest.mark.real
@pytest.mark.skipif("DISTIL_WHISPER_REAL_SPEECH" not in os.environ, reason="DISTIL_WHISPER_REAL_SPEECH is not set")
def test_real_references_survive_normalisation():
    """Transcripts as people write them: no reference may become empty, and each must match itself typed otherwise."""
    folder = Path(os.environ["DISTIL_WHISPER_REAL_SPEECH"]) / "uk-digit-strings"
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [
        score(
            row["sentence"],
            row["sentence"].upper().replace("'", "’") + ".",
            utterance_id=row["file_name"],
            language=row["language"],
            speaker=row["speaker"],
            labels={"gender": row["gender"]},
        )
        for row in rows
    ]
    cells = {cell.key["gender"]: cell for cell in aggregate(scores, by=["gender"])}
    assert {gender: cell.speakers for gender, cell in cells.items()} == {"male": 39, "female": 49}
    assert all(cell.wer == cell.cer == 0.0 and not cell.empty_references for cell in cells.values())
    assert not any(cell.loops or cell.duplicates for cell in cells.values())
