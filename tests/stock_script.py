"""The shape of transformers' run_speech_recognition_seq2seq.py, as small as it can be: it knows nothing of experts.

    python stock_script.py --model_name_or_path FOLDER --dataset_dir FOLDER --output_dir FOLDER ...

What matters to us is done as there: Auto classes, `freeze_feature_encoder`, one prompt for the whole data set,
lower-cased texts, unknown columns removed, the start token cut off the labels, stock Seq2SeqTrainer, resuming from
checkpoints.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    HfArgumentParser,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)


@dataclass
class Arguments:
    model_name_or_path: str
    dataset_dir: str
    language: str | None = None
    trust_remote_code: bool = False


@dataclass
class Collator:
    feature_extractor: object
    tokenizer: object
    decoder_start_token_id: int

    def __call__(self, rows):
        batch = self.feature_extractor.pad(
            [{"input_features": row["input_features"]} for row in rows], return_tensors="pt"
        )
        padded = self.tokenizer.pad([{"input_ids": row["labels"]} for row in rows], return_tensors="pt")
        labels = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
        if (labels[:, 0] == self.decoder_start_token_id).all():
            labels = labels[:, 1:]
        batch["labels"] = labels
        return batch


def main():
    args, training = HfArgumentParser((Arguments, Seq2SeqTrainingArguments)).parse_args_into_dataclasses()
    set_seed(training.seed)
    torch.set_num_threads(2)
    trust = {"trust_remote_code": args.trust_remote_code}
    config = AutoConfig.from_pretrained(args.model_name_or_path, **trust)
    feature_extractor = AutoFeatureExtractor.from_pretrained(args.model_name_or_path, **trust)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path, **trust)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(args.model_name_or_path, config=config, **trust)
    model.freeze_feature_encoder()
    if model.generation_config.is_multilingual:
        tokenizer.set_prefix_tokens(language=args.language, task="transcribe")
        model.generation_config.language = args.language
        model.generation_config.task = "transcribe"

    with open(Path(args.dataset_dir) / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def prepare(row):
        audio, rate = soundfile.read(Path(args.dataset_dir) / row["file_name"], dtype="float32")
        inputs = feature_extractor(audio, sampling_rate=rate)
        return {"input_features": inputs.input_features[0], "labels": tokenizer(row["text"].lower()).input_ids}

    dataset = Dataset.from_list(rows).map(prepare, keep_in_memory=True)
    trainer = Seq2SeqTrainer(
        model=model,
        args=training,
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=feature_extractor,
        data_collator=Collator(feature_extractor, tokenizer, model.config.decoder_start_token_id),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate(max_length=20))


if __name__ == "__main__":
    main()
