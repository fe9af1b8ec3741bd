"""The map from a student's vocabulary to that of its teacher, checked token by token.

Whisper has three layouts: multilingual (51865 outputs), large-v3 and turbo (51866: the language `<|yue|>` shifts every
special token after it) and English-only (51864, another byte-pair encoding). The first two can teach each other's
labels; English-only and multilingual split text differently, so no position of one is a position of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data.labels import END_OF_TEXT, ENGLISH_ONLY_TEXT_TOKENS

MULTILINGUAL_TEXT_TOKENS = 50257

# One token, two spellings: checkpoints before large-v3 and those from it on.
_RESPELLED = {"<|nocaptions|>": "<|nospeech|>", "<|nospeech|>": "<|nocaptions|>"}


@dataclass(frozen=True)
class VocabularyMap:
    """Index of a student's tokens in the outputs of its teacher; made by `map_vocabulary`.

    Attributes:
        student_to_teacher: `(student vocabulary,)`, the teacher's id of each student id.
        teacher_size: number of the teacher's outputs.
        dropped: names of the teacher's tokens that the student lacks.
        is_identity: the vocabularies are the same, and nothing has to be mapped.
    """

    student_to_teacher: Tensor
    teacher_size: int
    dropped: tuple[str, ...]
    is_identity: bool

    def to(self, device: torch.device | str) -> VocabularyMap:
        """The same map with its index on another device."""
        return replace(self, student_to_teacher=self.student_to_teacher.to(device))

    def teacher_ids(self, student_ids: Tensor) -> Tensor:
        """Labels or decoder input ids of the student as those of the teacher.

        Args:
            student_ids: integers of any shape; negative values (the -100 of a position without target) stay.

        Returns:
            int64 of the same shape.
        """
        if self.is_identity:
            return student_ids
        mapped = self.student_to_teacher[student_ids.clamp(min=0)]
        return torch.where(student_ids < 0, student_ids.to(mapped.dtype), mapped)

    def student_logits(self, teacher_logits: Tensor) -> Tensor:
        """The teacher's logits in the student's vocabulary.

        Tokens that the student lacks are dropped here, before the softmax. The softmax of what is left is the
        teacher's distribution given that the token is one the student knows: p(v) / (1 - p(dropped)), renormalised and
        exact.

        Args:
            teacher_logits: `(..., teacher_size)`.

        Returns:
            `(..., student vocabulary)`; the argument itself when the vocabularies are the same.

        Raises:
            ValueError: the last axis is not `teacher_size` long.
        """
        if teacher_logits.shape[-1] != self.teacher_size:
            raise ValueError(
                f"Expected {self.teacher_size} teacher logits for each position, got {teacher_logits.shape[-1]}: this "
                "vocabulary map was made for another teacher."
            )
        if self.is_identity:
            return teacher_logits
        return teacher_logits.index_select(-1, self.student_to_teacher)


def map_vocabulary(
    student: Mapping[str, int], teacher: Mapping[str, int], *, student_size: int, teacher_size: int
) -> VocabularyMap:
    """Find every token of the student in the teacher.

    Args:
        student: token to id, as `tokenizer.get_vocab()` gives it.
        teacher: the same for the teacher.
        student_size: number of the student's outputs, `config.vocab_size`; every one of them must have a name.
        teacher_size: number of the teacher's outputs; those without a name (a padded output layer) are dropped.

    Raises:
        ValueError: a vocabulary that is not Whisper's or not complete, texts that are split differently (English-only
            against multilingual), or a student token that the teacher lacks (a large-v3 student of an older teacher).
    """
    _check_complete(student, student_size, who="student", all_named=True)
    _check_complete(teacher, teacher_size, who="teacher", all_named=False)
    _check_same_text(student, teacher)
    index = torch.empty(student_size, dtype=torch.int64)
    missing = []
    for token, student_id in student.items():
        teacher_id = teacher.get(token, teacher.get(_RESPELLED.get(token, token)))
        if teacher_id is None:
            missing.append(token)
        else:
            index[student_id] = teacher_id
    if missing:
        raise ValueError(
            f"The teacher ({teacher_size} outputs) lacks {len(missing)} of the student's {student_size} tokens: "
            f"{_some(missing)}. It cannot say how likely they are: take a teacher that has them."
        )
    known = set(index.tolist())
    dropped = tuple(sorted((token for token, i in teacher.items() if i not in known), key=teacher.__getitem__))
    is_identity = student_size == teacher_size and torch.equal(index, torch.arange(student_size))
    return VocabularyMap(index, teacher_size, dropped, is_identity)


def _check_complete(vocabulary: Mapping[str, int], size: int, *, who: str, all_named: bool) -> None:
    if END_OF_TEXT not in vocabulary:
        raise ValueError(f"The {who}'s {len(vocabulary)} tokens lack {END_OF_TEXT}: expected a Whisper vocabulary.")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError(
            f"The {who}'s {len(vocabulary)} tokens must have the ids 0 to {len(vocabulary) - 1}, each of them once."
        )
    if len(vocabulary) > size or (all_named and len(vocabulary) < size):
        raise ValueError(
            f"The {who}'s tokenizer names {len(vocabulary)} tokens and its model has {size} outputs: load the "
            "tokenizer that belongs to the model (those of 2022 lack the 1501 timestamp tokens, newer copies have "
            "them)."
        )


def _check_same_text(student: Mapping[str, int], teacher: Mapping[str, int]) -> None:
    """Text tokens, those before `<|endoftext|>`, must be the same, each with the same id."""
    ours = {token: i for token, i in student.items() if i < student[END_OF_TEXT]}
    theirs = {token: i for token, i in teacher.items() if i < teacher[END_OF_TEXT]}
    different = [token for token, i in ours.items() if theirs.get(token) != i]
    different += [token for token in theirs if token not in ours]
    if different:
        first = min(different, key={**theirs, **ours}.__getitem__)
        raise ValueError(
            f"Student and teacher split text differently: {len(ours)} and {len(theirs)} text tokens (multilingual "
            f"Whisper has {MULTILINGUAL_TEXT_TOKENS}, English-only {ENGLISH_ONLY_TEXT_TOKENS}), {len(different)} of "
            f"them not alike, such as {first!r} (student id {student.get(first)}, teacher id {teacher.get(first)}). "
            "Take a teacher of the student's kind."
        )


def _some(tokens: list[str]) -> str:
    shown = ", ".join(tokens[:5])
    return shown if len(tokens) <= 5 else f"{shown}, …"
