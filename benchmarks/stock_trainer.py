"""A language expert trained by transformers' own Seq2SeqTrainer, cross-entropy only, on a folder of speech.

    python benchmarks/stock_trainer.py --base BASE --speech tuxpaint-ca --language ca --other asterisk-en en

Prints WER and CER before and after, on clips whose texts are not in the training set, and on another language. A folder
has metadata.csv with `file_name`, `sentence` and, if there, `suspect` (rows other than 0 are left out) and audio/.
"""

import argparse
import csv
import hashlib
import time
import unicodedata
from pathlib import Path

import jiwer
import soundfile
import torch
from transformers import AutoProcessor, Seq2SeqTrainer, Seq2SeqTrainingArguments, WhisperProcessor, set_seed

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.training.schedules import GateNoiseCallback


def read(folder: Path) -> list[dict]:
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("suspect", "0") == "0"]
    for row in rows:
        row["path"] = (
            folder / "audio" / row["file_name"]
            if not (folder / row["file_name"]).exists()
            else folder / row["file_name"]
        )
    return rows


def is_test(text: str) -> bool:
    """One text in five, by its hash, so that no text is on both sides."""
    return int(hashlib.sha256(normalize(text).encode()).hexdigest(), 16) % 5 == 0


def normalize(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).lower()
    kept = (c if unicodedata.category(c)[0] in "LMN" or c == "'" else " " for c in text)
    return " ".join("".join(kept).split())


class Clips(torch.utils.data.Dataset):
    def __init__(self, rows: list[dict], processor: WhisperProcessor, language: str) -> None:
        self.rows, self.processor = rows, processor
        self.prompt = [
            processor.tokenizer.convert_tokens_to_ids(t)
            for t in (f"<|{language}|>", "<|transcribe|>", "<|notimestamps|>")
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        audio, rate = soundfile.read(self.rows[index]["path"], dtype="float32")
        # Whisper begins its text with a space; without it, the first token is one that it does not expect.
        text = self.processor.tokenizer(" " + self.rows[index]["sentence"], add_special_tokens=False).input_ids
        features = self.processor.feature_extractor(audio, sampling_rate=rate, return_tensors="pt").input_features[0]
        return {"input_features": features, "labels": [*self.prompt, *text, self.processor.tokenizer.eos_token_id]}


def collate(items: list[dict]) -> dict:
    labels = [torch.tensor(item["labels"]) for item in items]
    return {
        "input_features": torch.stack([item["input_features"] for item in items]),
        "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
    }


@torch.no_grad()
def evaluate(
    model: DistilWhisperForConditionalGeneration,
    processor: WhisperProcessor,
    rows: list[dict],
    language: str,
    batch: int = 16,
) -> tuple[float, float, list[str]]:
    model.eval()
    hypotheses = []
    for start in range(0, len(rows), batch):
        audio = [soundfile.read(row["path"], dtype="float32")[0] for row in rows[start : start + batch]]
        inputs = processor(audio, sampling_rate=16000, return_tensors="pt").input_features
        ids = model.generate(inputs, language=language, task="transcribe", max_new_tokens=128)
        hypotheses += [normalize(text) for text in processor.batch_decode(ids, skip_special_tokens=True)]
    references = [normalize(row["sentence"]) for row in rows]
    return 100 * jiwer.wer(references, hypotheses), 100 * jiwer.cer(references, hypotheses), hypotheses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="plain Whisper: folder or Hub name")
    parser.add_argument("--speech", type=Path, required=True, help="folder with metadata.csv and audio/")
    parser.add_argument("--language", required=True, help="its language, Whisper's code")
    parser.add_argument("--other", nargs=2, default=None, help="folder and language that must not change")
    parser.add_argument("--other-clips", type=int, default=40)
    parser.add_argument("--test-clips", type=int, default=80)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--gate-noise", type=float, default=5.0)
    parser.add_argument("--skip-gate-probability", type=float, default=0.2)
    parser.add_argument("--expert-dropout", type=float, default=0.3)
    parser.add_argument("--gate-estimator", choices=("soft", "straight_through"), default="soft")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16 in training")
    parser.add_argument("--output", default="runs/stock_trainer")
    args = parser.parse_args()

    set_seed(0)
    processor = AutoProcessor.from_pretrained(args.base)
    model = DistilWhisperForConditionalGeneration.from_pretrained(
        args.base,
        skip_gate_probability=args.skip_gate_probability,
        expert_dropout=args.expert_dropout,
        gate_estimator=args.gate_estimator,
    )
    rows = read(args.speech)
    train = [row for row in rows if not is_test(row["sentence"])]
    test = [row for row in rows if is_test(row["sentence"])][: args.test_clips]
    other = read(Path(args.other[0]))[: args.other_clips] if args.other else []
    print(f"{len(train)} training clips, {len(test)} test clips with other texts, {len(other)} of another language")

    before = evaluate(model, processor, test, args.language)
    before_other = evaluate(model, processor, other, args.other[1]) if other else None
    model.add_expert(args.language)
    model.freeze_shared()
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=args.output, max_steps=args.steps, per_device_train_batch_size=args.batch,
            learning_rate=args.learning_rate, warmup_steps=args.steps // 10, adam_beta2=0.98, weight_decay=0.0,
            save_strategy="no", logging_steps=5, use_cpu=not torch.cuda.is_available(), seed=0, bf16=args.bf16,
        ),
        train_dataset=Clips(train, processor, args.language),
        data_collator=collate,
        callbacks=[GateNoiseCallback(args.gate_noise)],
    )  # fmt: skip
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    path = model.save_expert(args.language, args.output)
    # A fresh base with the saved expert: the Trainer leaves autocast wrapped around the model that it trained.
    model = DistilWhisperForConditionalGeneration.from_pretrained(args.base)
    model.load_expert(args.language, args.output)
    after = evaluate(model, processor, test, args.language)
    print(f"training: {args.steps} steps of {args.batch} clips in {seconds / 60:.1f} min")
    print(f"{args.language}: WER {before[0]:.1f} -> {after[0]:.1f} %, CER {before[1]:.1f} -> {after[1]:.1f} %")
    if other:
        after_other = evaluate(model, processor, other, args.other[1])
        same = after_other[2] == before_other[2]
        print(f"{args.other[1]}: WER {before_other[0]:.1f} -> {after_other[0]:.1f} %, transcripts unchanged: {same}")
    clips = Clips(test, processor, args.language)
    example = torch.stack([clips[i]["input_features"] for i in range(min(8, len(clips)))])
    prompt = torch.tensor([[model.config.decoder_start_token_id, *clips.prompt]] * len(example))
    with torch.no_grad():
        outputs = model(example, decoder_input_ids=prompt, output_gate_values=True)
    for side in ("encoder", "decoder"):
        opened = [float(gates.mean()) for gates in getattr(outputs, f"{side}_gate_values")]
        print(f"gates open, {side}: " + " ".join(f"{share:.0%}" for share in opened))
    for row, old, new in list(zip(test, before[2], after[2], strict=True))[:10]:
        print(f"  {normalize(row['sentence'])!r}\n    before {old!r}\n    after  {new!r}")
    print("saved", path)


if __name__ == "__main__":
    main()
