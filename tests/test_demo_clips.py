"""The clips that ship with the repository: what the demo relies on, and the notices that their licence asks for."""

import csv
from pathlib import Path

import pytest
import soundfile

FOLDER = Path(__file__).parents[1] / "examples" / "audio"
with (FOLDER / "metadata.csv").open(encoding="utf-8", newline="") as file:
    ROWS = {row["file_name"]: row for row in csv.DictReader(file)}


def test_metadata_lists_exactly_the_clips():
    """Prevents a clip without a transcript, an author and a licence."""
    assert sorted(ROWS) == sorted(path.name for path in FOLDER.glob("*.ogg"))
    assert len({row["language"] for row in ROWS.values()}) == len(ROWS) == 4


@pytest.mark.parametrize("name", ROWS)
def test_clip_is_short_16_khz_mono_speech(name):
    """Prevents a clip that needs a resampler, weighs down a clone, or is silent because its decoding went wrong."""
    samples, rate = soundfile.read(FOLDER / name, dtype="float32", always_2d=True)
    assert (rate, samples.shape[1]) == (16_000, 1)
    assert 3 <= len(samples) / rate <= 8
    assert 0.05 < (samples**2).mean() ** 0.5 < 0.3
    assert (FOLDER / name).stat().st_size < 100_000


@pytest.mark.parametrize("name", ROWS)
def test_notices_name_each_clip(name):
    """Prevents a clip that is passed on without the attribution its licence asks for."""
    row = ROWS[name]
    (line,) = [line for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines() if f"`{name}`" in line]
    length_s = soundfile.info(FOLDER / name).duration
    for value in (f"`{row['language']}`", row["text"], row["speaker"], f"`{row['prompt']}`", f"| {length_s:.1f} |"):
        assert value in line
    notice = (FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert (
        name in notice
        and row["speaker"] in notice
        and all(f"creativecommons.org/licenses/{kind}/3.0" in notice for kind in ("by", "by-sa"))
    )
