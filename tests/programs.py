"""What the tests of training programs start from: a tiny base with short windows, and folders of speech."""

import csv
from pathlib import Path

from speech_files import write
from tiny import tiny_tokenizer
from transformers import WhisperFeatureExtractor, WhisperProcessor

TINY = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--use_cpu", "--report_to", "none", "--disable_tqdm",
        "true", "--save_strategy", "no", "--test_max_new_tokens", "5", "--logging_steps", "1"]  # fmt: skip


def short_processor() -> WhisperProcessor:
    """Whisper's, with windows of 2 s."""
    return WhisperProcessor(WhisperFeatureExtractor(chunk_length=2), tiny_tokenizer())


def speech_folder(folder: Path, language: str, count: int = 12, *, hertz: float = 200.0) -> Path:
    """Clips of different lengths and texts by three speakers; one is broken, one says nothing, one is too long."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        name = f"clip{number}.wav"
        write(folder / name, 0.3 + 0.1 * number, rate=16000, hertz=hertz + 30 * number)
        rows.append([name, f"text {number} {language}", language, f"speaker{number % 3}", "0"])
    (folder / "broken.wav").write_bytes(b"RIFF")
    write(folder / "long.wav", 2.5)
    rows += [["broken.wav", "lost", language, "speaker0", "0"], ["clip0.wav", "...", language, "speaker0", "0"]]
    rows += [["long.wav", "too long", language, "speaker0", "0"], ["clip1.wav", "suspect", language, "speaker0", "1"]]
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file_name", "text", "language", "speaker", "suspect"], *rows])
    return folder
