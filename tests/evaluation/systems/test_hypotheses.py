"""Transcribing with a store: nothing twice, nothing lost, whatever interrupts it."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clips_of_tones import make_clip as make

from distil_whisper_hf.data.audio import Waveform
from distil_whisper_hf.evaluation.systems.hypotheses import (
    GenerationSettings,
    HypothesisStore,
    plan_batches,
    store_path,
    transcribe,
    transcribe_batch,
)
from distil_whisper_hf.evaluation.systems.opening import SystemSpec, open_system

ROOT = Path(__file__).parents[3]
SETTINGS = GenerationSettings(max_new_tokens=5, batch_size=3)


# Ten clips of different lengths: four batches of three, the last of one.
CLIPS = [make(index, 0.2 + 0.1 * index) for index in range(10)]

KILLED = """
import os, signal, sys
sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
from test_hypotheses import CLIPS, SETTINGS
from distil_whisper_hf.evaluation.systems import hypotheses
from distil_whisper_hf.evaluation.systems.opening import SystemSpec

class Dying(hypotheses.HypothesisStore):
    written = 0
    def append(self, batch):
        if self.written == 2:
            # The machine stops while the third batch is being written.
            with self.path.open("ab") as file:
                file.write(b'{{"dataset": "tones", "id": "5.w')
                file.flush()
                os.fsync(file.fileno())
            os.kill(os.getpid(), signal.SIGKILL)
        self.written += 1
        super().append(batch)

spec = SystemSpec({base!r})
store = Dying(hypotheses.store_path({folder!r}, spec, SETTINGS))
hypotheses.transcribe(spec, CLIPS, store, settings=SETTINGS, progress=False)
"""


def run(spec, folder, clips=CLIPS):
    store = HypothesisStore(store_path(folder, spec, SETTINGS))
    return transcribe(spec, clips, store, settings=SETTINGS, progress=False), store


def test_a_killed_run_goes_on_where_it_stopped(base, tmp_path):
    """Prevents utterances from being transcribed twice or lost, and numbers that depend on an interruption."""
    program = KILLED.format(
        root=str(ROOT), tests=str(ROOT / "tests"), here=str(Path(__file__).parent), base=str(base),
        folder=str(tmp_path / "killed"),
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    (path,) = (tmp_path / "killed").iterdir()
    torn = path.read_bytes()
    assert torn.count(b"\n") == 6 and not torn.endswith(b"\n")

    spec = SystemSpec(str(base))
    again, store = run(spec, tmp_path / "killed")
    assert again == 4 and store.path == path
    assert path.read_bytes().startswith(torn[: torn.rfind(b"\n") + 1]) and path.read_bytes().count(b"\n") == 10
    once, uninterrupted = run(spec, tmp_path / "once")
    assert once == 10
    for clip in CLIPS:
        first, second = store[clip], uninterrupted[clip]
        assert replace(first, seconds=0) == replace(second, seconds=0)
    assert len({store[clip].text for clip in CLIPS}) > 1 and all(store[clip].text for clip in CLIPS)
    # A third run has nothing to do, and so opens no model.
    assert transcribe(spec, CLIPS, HypothesisStore(path), settings=SETTINGS, open_model=lambda _: 1 / 0) == 0


def test_batches_are_planned_from_the_data_alone():
    """Prevents a resumed run from computing other batches than an uninterrupted one."""
    batches = plan_batches(CLIPS, SETTINGS)
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
    assert plan_batches(CLIPS[::-1], SETTINGS) == batches
    assert [clip.seconds for clip in batches[0]] == sorted((clip.seconds for clip in CLIPS), reverse=True)[:3]
    long = make(11, 31.0)
    other = make(12, 0.5, dataset="others")
    translated = make(13, 0.5, task="translate")
    assert [len(batch) for batch in plan_batches([*CLIPS, long, other, translated], SETTINGS)] == [1, 3, 3, 3, 1, 1, 1]


def test_what_is_asked_decides_what_is_found(base, tmp_path):
    """Prevents a hypothesis of other audio, language, task, settings or precision from being reused."""
    spec = SystemSpec(str(base))
    count, store = run(spec, tmp_path, CLIPS[:1])
    assert count == 1 and CLIPS[0] in store
    for changes in ({"digest": "other"}, {"language": "es"}, {"task": "translate"}, {"dataset": "x"}, {"id": "y"}):
        assert replace(CLIPS[0], **changes) not in store
    paths = {
        store_path(tmp_path, spec, SETTINGS),
        store_path(tmp_path, spec, replace(SETTINGS, max_new_tokens=6)),
        store_path(tmp_path, spec, replace(SETTINGS, num_beams=2)),
        store_path(tmp_path, replace(spec, precision="bfloat16"), SETTINGS),
    }
    assert len(paths) == 4
    assert store_path(tmp_path, spec, replace(SETTINGS, batch_size=7)) == store.path


@pytest.mark.parametrize("line", [b'{"dataset": "a"}', b"[1]", b'{"dataset": "\xff"}', bytes(9)])
def test_a_line_that_is_no_hypothesis_is_named(tmp_path, line):
    """Prevents a damaged store from passing as an empty one."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(ValueError, match=r"line 1 of .*x\.jsonl"):
        HypothesisStore(path)


def test_every_clip_has_an_outcome(base):
    """Prevents one bad clip from ending a batch, or from vanishing."""
    clips = [
        make(0),
        make(1, audio="folder/gone.wav"),
        make(2, audio=Waveform(np.zeros(0, dtype=np.float32), 16000)),
        make(3, audio=Waveform(np.zeros(16000, dtype=np.float32), 16000)),
        make(4, language="tlh"),
        make(5, 31.0),
        make(6, audio=b"no sound"),
    ]
    system = open_system(SystemSpec(str(base)))
    expected = ["ok", "missing", "no samples", "silence", "language unknown to the model", "ok", "unreadable"]
    made = transcribe_batch(system, clips, SETTINGS)
    assert [one.outcome for one in made] == expected
    assert [one.text is not None for one in made] == [True, False, False, True, False, True, False]
    assert made[1].detail == "no file gone.wav" and made[5].audio_seconds == 31.0
    alone = transcribe_batch(system, clips[:1], SETTINGS)[0]
    assert alone.text == made[0].text and alone.cut
    (short,) = transcribe_batch(system, clips[5:6], replace(SETTINGS, long_form=False))
    assert short.outcome == "too long" and short.text is None


def test_experts_are_taken_by_language_and_by_name(whole, base):
    """Prevents a DistilWhisper from being evaluated as plain Whisper, or an unknown language from ending the run."""
    settings = replace(SETTINGS, max_new_tokens=8)
    ours, plain = (open_system(SystemSpec(str(source))) for source in (whole, base))
    clips = [make(1, language=language) for language in ("ca", "es", "sc")]
    texts = [one.text for one in transcribe_batch(ours, clips, settings)]
    shared = [one.text for one in transcribe_batch(plain, clips, settings)]
    assert texts[1] == shared[1] and texts[0] != shared[0]
    # Sardinian has no token: its expert brings one, plain Whisper has nothing.
    assert texts[2] is not None and shared[2] is None
    named = transcribe_batch(ours, [make(1, language="it", expert="sc")], settings)[0].text
    assert named == texts[2]
    translated = [make(1, task="translate")]
    assert transcribe_batch(ours, translated, settings)[0].text == transcribe_batch(plain, translated, settings)[0].text


def test_a_model_may_have_several_end_tokens(base):
    """Transformers' trainer writes a list where tokenizer and model disagree: any of them ends a text."""
    system = open_system(SystemSpec(str(base)))
    (cut,) = transcribe_batch(system, [make(0)], SETTINGS)
    said = system.processor.tokenizer.convert_tokens_to_ids(f"Ġ{cut.text.split()[-1]}")
    generation_config = system.model.generation_config
    generation_config.eos_token_id = [generation_config.eos_token_id, said]
    (ended,) = transcribe_batch(system, [make(0)], SETTINGS)
    assert cut.cut and not ended.cut
