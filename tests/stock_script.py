"""The shape of transformers' run_speech_recognition_seq2seq.py, as small as it can be: it knows nothing of experts.

    python stock_script.py --model_name_or_path FOLDER --dataset_dir FOLDER --output_dir FOLDER --do_train ...

What matters to us is done as there and in its order: Auto classes, freezing, SpecAugment by configuration, one prompt
for the whole data set, lower-cased texts, rows of features and labels alone, a processor saved and opened again, the
start token cut off the labels, the feature extractor as processing class, resuming, scores by generating, pushing.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import soundfile
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
    HfArgumentParser,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)


@dataclass
class Arguments:
    model_name_or_path: str
    dataset_dir: str = field(default="")
    language: str | None = None
    trust_remote_code: bool = False
    freeze_feature_encoder: bool = True
    freeze_encoder: bool = False
    apply_spec_augment: bool = False


@dataclass
class Collator:
    processor: object
    decoder_start_token_id: int
    forward_attention_mask: bool

    def __call__(self, rows):
        batch = self.processor.feature_extractor.pad(
            [{"input_features": row["input_features"]} for row in rows], return_tensors="pt"
        )
        if self.forward_attention_mask:
            batch["attention_mask"] = torch.LongTensor([row["attention_mask"] for row in rows])
        padded = self.processor.tokenizer.pad([{"input_ids": row["labels"]} for row in rows], return_tensors="pt")
        labels = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
        if (labels[:, 0] == self.decoder_start_token_id).all().cpu().item():
            labels = labels[:, 1:]
        batch["labels"] = labels
        return batch


def main():
    args, training = HfArgumentParser((Arguments, Seq2SeqTrainingArguments)).parse_args_into_dataclasses()
    set_seed(training.seed)
    torch.set_num_threads(2)
    trust = {"trust_remote_code": args.trust_remote_code, "revision": "main"}
    config = AutoConfig.from_pretrained(args.model_name_or_path, **trust)
    config.update({"apply_spec_augment": args.apply_spec_augment})
    feature_extractor = AutoFeatureExtractor.from_pretrained(args.model_name_or_path, **trust)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path, **trust)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(args.model_name_or_path, config=config, **trust)
    if args.freeze_feature_encoder:
        model.freeze_feature_encoder()
    if args.freeze_encoder:
        model.freeze_encoder()
        model.model.encoder.gradient_checkpointing = False
    if model.generation_config.is_multilingual:
        tokenizer.set_prefix_tokens(language=args.language, task="transcribe")
        model.generation_config.language = args.language
        model.generation_config.task = "transcribe"

    with open(Path(args.dataset_dir) / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    forward_attention_mask = config.apply_spec_augment and config.mask_time_prob > 0

    def prepare(row):
        audio, rate = soundfile.read(Path(args.dataset_dir) / row["file_name"], dtype="float32")
        inputs = feature_extractor(audio, sampling_rate=rate, return_attention_mask=forward_attention_mask)
        made = {"input_features": inputs.get("input_features")[0], "input_length": len(audio)}
        if forward_attention_mask:
            made["attention_mask"] = inputs.get("attention_mask")[0]
        return {**made, "labels": tokenizer(row["text"].lower()).input_ids}

    dataset = Dataset.from_list(rows).map(prepare, remove_columns=["file_name", "text"], keep_in_memory=True)

    def compute_metrics(prediction):
        prediction.label_ids[prediction.label_ids == -100] = tokenizer.pad_token_id
        said = tokenizer.batch_decode(prediction.predictions, skip_special_tokens=True)
        meant = tokenizer.batch_decode(prediction.label_ids, skip_special_tokens=True)
        return {"wer": jiwer.wer(meant, said)}

    with training.main_process_first(local=False):
        feature_extractor.save_pretrained(training.output_dir)
        tokenizer.save_pretrained(training.output_dir)
        config.save_pretrained(training.output_dir)
    processor = AutoProcessor.from_pretrained(training.output_dir, trust_remote_code=args.trust_remote_code)
    trainer = Seq2SeqTrainer(
        model=model,
        args=training,
        train_dataset=dataset if training.do_train else None,
        eval_dataset=dataset if training.do_eval else None,
        processing_class=feature_extractor,
        data_collator=Collator(processor, model.config.decoder_start_token_id, forward_attention_mask),
        compute_metrics=compute_metrics if training.predict_with_generate else None,
    )
    if training.do_train:
        result = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
    if training.do_eval:
        metrics = trainer.evaluate(
            metric_key_prefix="eval",
            max_length=training.generation_max_length,
            num_beams=training.generation_num_beams,
        )
        trainer.save_metrics("eval", metrics)
    kwargs = {"finetuned_from": args.model_name_or_path, "tasks": "automatic-speech-recognition"}
    if training.push_to_hub:
        trainer.push_to_hub(**kwargs)
    else:
        trainer.create_model_card(**kwargs)


if __name__ == "__main__":
    main()
