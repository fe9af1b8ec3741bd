"""Model cards and results: what they state, what they refuse to state."""

import copy
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard import metadata_load

from distil_whisper_hf.publishing.card import is_own_card, model_card
from distil_whisper_hf.publishing.measured_results import MeasuredResults, eval_result_file, read_results

ROOT = Path(__file__).parents[2]
RESULTS = {
    "license": "cc-by-sa-4.0",
    "data": [
        {
            "name": "Recordings", "role": "training", "license": "CC BY-SA 4.0", "source": "https://example.org/a",
            "clips": 700, "minutes": 31, "hub_dataset": "user/recordings",
        },
        {"name": "Others", "role": "evaluation", "license": "CC0", "source": "own", "notes": "read | aloud"},
    ],
    "rows": [
        {
            "system": system, "dataset": dataset, "split": "test", "domain": domain, "language": "pl", "metric": "wer",
            "value": value, "interval": [value - 1, value + 2], "normalizer": "nfkc", "clips": 100,
            "command": "distil-whisper evaluate --model x",
        }
        for system, dataset, domain, value in (
            ("base", "Recordings", "in", 66.25),
            ("expert", "Recordings", "in", 40.5),
            ("expert", "Others", "out", 50.0),
        )
    ],
    "gates": {"command": "distil-whisper evaluate --gates", "encoder": [0.5, 1.0], "decoder": [0.25, 0.0, 1.0]},
    "bias": [
        {
            "attribute": "gender", "group": "women - men", "metric": "WER", "value": 3.5, "interval": [-1, 8],
            "speakers": 12, "command": "distil-whisper bias",
        }
    ],
    "limits": ["One speaker."],
}  # fmt: skip
CONFIG = {
    "base_model_name_or_path": "openai/whisper-base",
    "language_experts": {
        "pl": {"language": "pl", "training": {"learning_rate": 1e-4, "steps": 100}},
        "sc": {"language": "it", "training": {}, "sides": "encoder"},
    },
}


@pytest.fixture
def results():
    return copy.deepcopy(RESULTS)


def card(results, **arguments):
    options = {"repo_id": "user/whisper-base-pl", "sizes": {"pl": 102_400_000}, **arguments}
    return model_card(CONFIG, {"pl": read_results(results)}, **options)


def test_metadata_is_the_hubs(results, tmp_path):
    """Silent: a card whose language, base or figures the Hub does not find."""
    (tmp_path / "README.md").write_text(card(results), encoding="utf-8")
    metadata = metadata_load(tmp_path / "README.md")
    assert metadata | {"model-index": None} == {
        "base_model": "openai/whisper-base", "base_model_relation": "adapter", "language": ["it", "pl"],
        "library_name": "transformers", "license": "cc-by-sa-4.0", "metrics": ["wer"], "datasets": ["user/recordings"],
        "pipeline_tag": "automatic-speech-recognition", "tags": ["distil-whisper-hf", "language-experts", "whisper"],
        "model-index": None,
    }  # fmt: skip
    read = ModelCard.load(tmp_path / "README.md").data
    assert [(one.dataset_name, one.metric_type, one.metric_value) for one in read.eval_results] == [
        ("Recordings", "wer", 40.5), ("Others", "wer", 50.0),
    ]  # fmt: skip
    whole = card(results, whole=True)
    assert "base_model_relation: finetune" in whole


def test_every_figure_stands_with_its_command(results):
    """Silent: a figure that nobody can repeat; the base left out of the comparison."""
    text = card(results)
    lines = text.splitlines()
    (base,) = [line for line in lines if line.startswith("| base | Recordings (100 clips)")]
    assert "66.25 [65.25, 68.25]" in base and base.endswith("| [1] |")
    assert "[1] `distil-whisper evaluate --model x`  " in lines
    assert "| `pl` | encoder | 50 100 |" in lines and "| `pl` | decoder | 25 0 100 |" in lines
    assert "| `pl` | gender: women - men | WER | 3.5 [-1, 8] | 12 | [1] |" in lines
    assert '| `sc` | it | by name (`expert="sc"`) | not known, encoder alone |' in lines and "102.4 MB" in text
    assert "- `pl`: One speaker." in lines and "read \\| aloud" in text
    assert 'language="pl"' in text and "| learning_rate | 0.0001 |" in lines


def test_metrics_of_one_measurement_share_a_line(results):
    """Silent: a figure in the column of another metric or system, or one of two that is lost."""
    rows = results["rows"]
    first = rows[0]
    more = [{**first, "metric": "cer", "value": 30.0}, {**first, "metric": "cer", "value": 31.0}]
    rows += [{**row, "interval": [29.0, 32.0]} for row in more]
    (header,) = [line for line in card(results).splitlines() if line.startswith("| system |")]
    (base,) = [line for line in card(results).splitlines() if line.startswith("| base |")]
    place = header.split(" | ").index("WER (%)")
    assert header.split(" | ")[place + 1] == "CER (%)"
    assert base.split(" | ")[place : place + 2] == ["66.25 [65.25, 68.25]", "30 [29, 32], 31 [29, 32]"]


def test_what_is_not_known_is_not_stated():
    """Silent: a licence, a language or a figure made up."""
    text = model_card({"language_experts": {"x-1": {"language": None}}}, {}, repo_id="user/x", sizes={})
    head = text.split("---")[1]
    assert not any(key in head for key in ("license", "language:", "base_model", "model-index", "datasets", "metrics"))
    assert "Not measured." in text and "not stated" in text
    assert eval_result_file(MeasuredResults(), "x-1") is None


def test_benchmark_rows_go_into_files_of_their_own(results):
    """Silent: baselines published as the expert's results; rows on private data sent to a leaderboard."""
    for row in results["rows"]:
        row["hub_dataset"] = "user/recordings"
    results["rows"][0]["task_id"] = results["rows"][1]["task_id"] = "pl"
    import yaml

    (entry,) = parse_eval_result_entries(yaml.safe_load(eval_result_file(read_results(results), "pl")))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("user/recordings", "pl", 40.5)
    assert "wer in %" in entry.notes and "expert pl" in entry.notes


def test_text_cannot_leave_its_cell(results):
    """Silent: a name that ends its table and adds to the card what it likes."""
    results["limits"] = ["a\n\n# Title | <script>"]
    text = card(results)
    assert "- `pl`: a # Title \\| &lt;script>" in text and "<script>" not in text


def test_cards_made_here_are_known():
    """Silent: a card that somebody wrote, replaced; or one of ours that is never made again."""
    assert is_own_card(card(RESULTS)) and not is_own_card("---\nlicense: mit\n---\n# Mine\n")
