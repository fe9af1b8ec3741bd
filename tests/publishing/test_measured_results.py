"""Results files: what they may hold, and how a wrong one is refused."""

import copy
import json

import pytest

from distil_whisper_hf.publishing.measured_results import MeasuredResults, Row, read_results

FIGURE = {"metric": "WER", "value": 40, "command": "distil-whisper evaluate --model x"}
ROW = {"system": "expert", "dataset": "Calls", "split": "test", "domain": "in", "language": "ca", **FIGURE}
RESULTS = {
    "license": "cc-by-sa-4.0",
    "data": [
        {"name": "Calls", "role": "training", "license": "CC0", "source": "own", "clips": 700, "minutes": 31.5},
        {"name": "Others", "role": "evaluation", "license": "CC0", "source": "own"},
    ],
    "rows": [ROW, {**ROW, "system": "base", "interval": [38.5, 41], "normalizer": "unicode"}],
    "gates": {"command": "distil-whisper train", "encoder": [0.5, 1], "decoder": []},
    "bias": [{"attribute": "gender", "group": "women - men", "speakers": 12, **FIGURE}],
    "limits": ["One speaker."],
}

# What is done to the results, and what the error begins with and says.
BROKEN = {
    "no command": (lambda found: found["rows"][1].pop("command"), r"rows\[1\]: .*missing \['command'\]"),
    "empty command": (lambda found: found["rows"][1].update(command=""), r"rows\[1\]: .*command"),
    "another type": (
        lambda found: found["rows"][1].update(command=3),
        r"rows\[1\]: .*'command' expected str",
    ),
    "unknown field": (lambda found: found["rows"][0].update(wer=3), r"rows\[0\]: .*unknown \['wer'\]"),
    "unknown part": (lambda found: found.update(figures=[]), r"expected .*unknown \['figures'\]"),
    "text for a number": (lambda found: found["rows"][0].update(value="40"), r"rows\[0\]: .*value"),
    "truth for a number": (lambda found: found["rows"][0].update(value=True), r"rows\[0\]: .*value"),
    "no number": (lambda found: found["rows"][0].update(value=float("nan")), r"rows\[0\]: expected a finite number"),
    "outside its interval": (lambda found: found["rows"][1].update(interval=[1, 2]), r"rows\[1\]: .*around 40"),
    "half an interval": (lambda found: found["rows"][1].update(interval=[1]), r"rows\[1\]: .*interval"),
    "half a clip": (lambda found: found["rows"][1].update(clips=1.5), r"rows\[1\]: .*clips"),
    "domain": (lambda found: found["rows"][0].update(domain="inside"), r"rows\[0\]: .*'in', 'out'"),
    "role": (lambda found: found["data"][1].update(role="both"), r"data\[1\]: .*'training', 'evaluation'"),
    "no licence of the data": (lambda found: found["data"][1].pop("license"), r"data\[1\]: .*\['license'\]"),
    "gates without a command": (lambda found: found["gates"].pop("command"), r"gates: .*\['command'\]"),
    "gates without a side": (lambda found: found["gates"].pop("decoder"), r"gates: .*\['decoder'\]"),
    "gates in percent": (lambda found: found["gates"].update(encoder=[50]), r"gates: .*\[0, 1\] as encoder"),
    "bias without a group": (lambda found: found["bias"][0].pop("group"), r"bias\[0\]: .*\['group'\]"),
    "an entry that is no object": (lambda found: found["rows"].append("row"), r"rows\[2\]: expected an object"),
    "a part that is no list": (lambda found: found.update(rows=ROW), ".*'rows' expected a list"),
    "limits as one sentence": (lambda found: found.update(limits="One speaker."), ".*'limits' expected a list"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_results_that_cannot_stand_are_refused(case, tmp_path):
    """Silent: a figure without its command or its meaning, published as it is; an error that names no place."""
    results = copy.deepcopy(RESULTS)
    read_results(results)
    change, message = BROKEN[case]
    change(results)
    path = tmp_path / "results.ca.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"results\.ca\.json: {message}"):
        read_results(path)
    with pytest.raises(ValueError, match=f"^the results: {message}"):
        read_results(results)


def test_a_file_that_is_no_object_is_refused(tmp_path):
    """Silent: a list of rows, read as results without any figure."""
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS["rows"]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json: expected an object"):
        read_results(path)


def test_results_leave_as_they_came(tmp_path):
    """Silent: a field lost, or a whole number turned into a broken one, between training's folder and the release's."""
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS), encoding="utf-8")
    for source in (path, str(path), RESULTS):
        assert json.dumps(read_results(source).as_dict(), sort_keys=True) == json.dumps(RESULTS, sort_keys=True)
    assert read_results({}) == MeasuredResults() and MeasuredResults().as_dict() == {}
    unknown = {**RESULTS, "rows": [{**ROW, "clips": None}], "gates": None, "limits": []}
    assert read_results(unknown).as_dict() == {
        "license": RESULTS["license"], "data": RESULTS["data"], "rows": [ROW], "bias": RESULTS["bias"],
    }  # fmt: skip


def test_rows_are_checked_where_they_are_made():
    """Silent: figures written by a program, unlike those read from a file, taken as they are."""
    Row(**ROW)
    with pytest.raises(ValueError, match="finite"):
        Row(**{**ROW, "value": float("inf")})
    with pytest.raises(ValueError, match="around 40"):
        Row(**{**ROW, "interval": (41.0, 42.0)})
