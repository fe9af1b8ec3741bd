"""Ask a teacher about the training speech ahead of training, and keep what it says.

distil-whisper teach examples/recipes/paper_js.json --model openai/whisper-small --teacher openai/whisper-large-v3 \\
    --teacher_cache teacher-ca --data FOLDER --language ca --join_seconds 28

Give it the flags of the training: what decides a window (data, splits, joining, seed) must be the same. Windows that
are kept already are not asked for again, so it goes on where it was interrupted, and several processes share the work:
`torchrun --nproc_per_node 4 -m distil_whisper_hf.cli teach ...`. Training with --teacher_cache then asks for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from ..data.screening import REJECTIONS_FILE
from ..evaluation.systems.processes import running
from ..training.teacher_cache import CachedTeacher
from .command_line import parse
from .mistakes import program
from .runs import prepare
from .train import KINDS, build_trainer

PROGRAM = "distil-whisper teach"


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status."""
    run, data, expert, anchors, training = parse(KINDS, arguments, program=PROGRAM, description=__doc__)
    if expert.teacher is None or expert.teacher_cache is None or training.distillation == "none":
        raise ValueError(
            "Expected a teacher and the folder that keeps what it says: --teacher openai/whisper-large-v3 "
            "--teacher_cache FOLDER, with a --distillation."
        )
    if data.streaming:
        raise ValueError("Expected data that is read before training: a stream has no end to ask about.")
    # Nothing is left in the output folder of the training.
    run, training.output_dir = replace(run, dry_run=True, test="none"), expert.teacher_cache
    processor, labels, corpus = prepare(run, data, training)
    # Nobody asks a teacher about anchors.
    trainer = build_trainer(run, data, expert, replace(anchors, anchor_data=[]), training, processor, labels, corpus)
    main_process = training.process_index == 0
    if main_process:
        corpus.report.save(Path(expert.teacher_cache) / REJECTIONS_FILE)
    for batch in tqdm(trainer.get_train_dataloader(), desc="windows", unit="batch", disable=not main_process):
        trainer.ask_teacher(batch)
    teacher = trainer.teacher
    if not isinstance(teacher, CachedTeacher):
        return 0
    asked, found = map(sum, zip(*running().gather((teacher.asked, teacher.found)), strict=True))
    if main_process:
        size = sum(path.stat().st_size for path in Path(teacher.cache.folder).rglob("*.safetensors"))
        print(
            f"{asked + found} windows: {asked} were asked for, {found} were kept already; "
            f"{teacher.cache.folder}: {size / 1e6:.1f} MB"
        )
    return 0
