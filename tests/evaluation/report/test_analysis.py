"""From scores to the rows of the report: caps, pairs, choices, verdicts, trends."""

import numpy as np
import pytest

from distil_whisper_hf.evaluation.recipes import recipe_from
from distil_whisper_hf.evaluation.report.analysis import Analysis, capped, pairs, quantization_pairs
from distil_whisper_hf.evaluation.report.bias import _verdict
from distil_whisper_hf.evaluation.report.cost import render_costs
from distil_whisper_hf.evaluation.report.document import Report
from distil_whisper_hf.evaluation.report.trends import Trends
from distil_whisper_hf.evaluation.scores.metrics import score_utterance
from distil_whisper_hf.evaluation.scores.normalization import get_normalizer
from distil_whisper_hf.evaluation.statistics.intervals import Interval
from distil_whisper_hf.evaluation.statistics.speaker_gaps import GapChange
from distil_whisper_hf.evaluation.systems.costs import Cost
from distil_whisper_hf.evaluation.systems.opening import SystemSpec


def test_capped_clip_counts_no_more_than_all_its_words():
    """Prevents one loop of eighty words from deciding what a group's error rate is."""
    normalizer = get_normalizer("unicode", "ca")
    loop = capped(score_utterance("bon dia", "bo " + "no " * 80, normalizer=normalizer))
    assert loop.words.rate == loop.characters.rate == 100.0 and loop.words.reference_length == 2
    fair = score_utterance("bon dia a tothom", "bon dia tots", normalizer=normalizer)
    assert capped(fair) == fair
    empty = score_utterance("…", "no", normalizer=normalizer)
    assert capped(empty) == empty


def test_systems_are_paired_with_what_they_differ_from_in_one_thing():
    """Prevents a quantised model from being compared with another model's float32."""
    a, a8, b, b8 = (SystemSpec(model, precision) for model in "ab" for precision in ("float32", "bnb-int8"))
    c4 = SystemSpec("c", "bnb-nf4")
    assert pairs([a, a8, b, b8, c4]) == [(a, a8), (a, b), (b, b8), (a8, b8)]
    assert quantization_pairs([a, a8, b, b8, c4]) == [(a, a8), (b, b8)]


@pytest.mark.parametrize(
    ("before", "low", "high", "verdict"),
    [
        (5.0, 1.0, 3.0, "grew, against women"),
        (5.0, -3.0, -1.0, "moved against men"),
        (-5.0, -3.0, -1.0, "grew, against men"),
        (-5.0, 1.0, 3.0, "moved against women"),
        (5.0, -1.0, 3.0, "no clear change"),
        (5.0, np.nan, np.nan, "no clear change"),
    ],
)
def test_verdict_says_against_whom(before, low, high, verdict):
    """Prevents a gap against the reference group from being called smaller when it grows."""
    interval = Interval((low + high) / 2, low, high, 0.95, "studentized", "speaker", 20, 20, 100)
    change = GapChange("gender", "women", "men", "wer", "macro", before, before, interval, interval, 0.1, 0.1, ())
    assert _verdict(change) == verdict


def test_recipes_expand_and_refuse():
    """Prevents a mistyped field of a recipe from being ignored."""
    recipe = recipe_from(
        {
            "systems": ["a", {"model": "b", "experts": {"ca": "x"}, "precision": "bfloat16"}],
            "precisions": ["float32", "bnb-nf4"],
            "datasets": ["some/set"],
        }
    )
    assert [spec.name for spec in recipe.systems] == ["a float32", "a bnb-nf4", "b+ca bfloat16"]
    assert recipe.datasets[0].name == "set"
    for values, message in (
        ({"systems": ["a"], "datasets": ["d"], "seeds": 1}, "no field seeds; it has systems"),
        ({"systems": ["a"], "datasets": [{"path": "d", "domain": "near"}]}, "unknown domain 'near'"),
        ({"systems": ["a"], "datasets": [{"name": "d"}]}, "expected path in a data set"),
        ({"systems": ["a"], "datasets": ["d"], "generation": {"beams": 2}}, "generation has no field beams"),
        ({"systems": ["a"], "datasets": ["d", "x/d"]}, "expected one name for each data set"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe_from(values)


def test_cost_table_has_a_dash_where_nothing_was_measured():
    """Prevents "None" or "nan" in a table for a system that has no float32 counterpart."""
    cost = Cost("a bnb-int8", "a", "bnb-int8", 74_000_000, 110_000_000, 111_000_000, None, None, 0.5, None, None, None)
    recipe = recipe_from({"systems": ["a"], "datasets": ["x"]})
    text = render_costs(Report(recipe, [], {}, [], Analysis(), Trends(), costs=[cost]))
    assert "| a bnb-int8 | 74.0 M | 111 | 110 | – | – | 0.500 | – |" in text
