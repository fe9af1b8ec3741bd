"""Which row of a batch takes which expert: read from decoder prompts, or chosen by name and carried in them.

The prompt is the one thing that stays with its row. Whisper's `generate` cuts long audio into windows, drops rows that
are finished, retries rows at higher temperature and multiplies rows for beams, so a list of experts given once would
soon belong to other rows. A row's expert is therefore read from its prompt (`route_by_prompt`); where a caller chooses
experts by name, the choice is written into the prompt's start token, and read and removed again just before the
encoder runs (`mark_experts`, `read_marks`). What the layers get is an `ExpertRouting`, worked out once a pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


def route_by_prompt(
    decoder_input_ids: torch.Tensor,
    language_tokens: dict[int, int],
    *,
    start_token_id: int,
    translate_token_id: int | None,
) -> torch.Tensor:
    """The expert of each row, read from its decoder prompt.

    The language token is the one right behind `<|startoftranscript|>`, wherever a prompt of earlier text puts that. A
    row whose next token is `<|translate|>`, without a language token, or of a language without an expert gets -1.

    Args:
        decoder_input_ids: `(batch, tokens)`, int64.
        language_tokens: id of a language token -> index of the expert it routes to.
        start_token_id: id of `<|startoftranscript|>`.
        translate_token_id: id of `<|translate|>`; None for a vocabulary without it.

    Returns:
        `(batch,)`, int64, on the same device; no value is read on the host.
    """
    batch, length = decoder_input_ids.shape
    expert_ids = decoder_input_ids.new_full((batch,), -1)
    if length < 2 or not language_tokens:
        return expert_ids
    after_start = decoder_input_ids[:, :-1] == start_token_id
    if translate_token_id is not None and length > 2:
        after_start[:, :-1] &= decoder_input_ids[:, 2:] != translate_token_id
    for token_id, index in language_tokens.items():
        spoken = (after_start & (decoder_input_ids[:, 1:] == token_id)).any(dim=1)
        expert_ids = torch.where(spoken, index, expert_ids)
    return expert_ids


def mark_experts(decoder_input_ids: torch.Tensor, choices: list[int | None], vocab_size: int) -> torch.Tensor:
    """Write each row's chosen expert into its first token.

    Args:
        decoder_input_ids: `(batch, tokens)`, int64, beginning with `<|startoftranscript|>`.
        choices: per row: index of an expert, -1 for the shared path, None to let the language token decide.
        vocab_size: marks are multiples of it, so that a marked token is none of the vocabulary.
    """
    marks = torch.tensor([0 if choice is None else (choice + 2) * vocab_size for choice in choices])
    marked = decoder_input_ids.clone()
    marked[:, 0] += marks.to(marked)
    return marked


def read_marks(decoder_input_ids: torch.Tensor, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `mark_experts`: the plain prompt, and per row index + 2 of the chosen expert (1: shared, 0: not chosen)."""
    return decoder_input_ids % vocab_size, (decoder_input_ids // vocab_size).amax(dim=1)


@dataclass(frozen=True)
class ExpertRouting:
    """Which rows of a batch take which expert, worked out once per encoder or decoder pass, handed to every layer.

    Attributes:
        expert_ids: `(batch,)`, int64: index into the model's expert names, -1 for the shared path.
        experts: index -> name of every expert that the layers at hand have; rows of others take the shared path.
        groups: expert name and its row indices `(rows,)`, or None where the expert has the whole batch; experts without
            a row are left out. None as a whole means "dense": decide by masks, without looking at values on the host.
        gate_noise: α, standard deviation of the noise on the gate's logit in training.
    """

    expert_ids: torch.Tensor
    experts: Mapping[int, str]
    groups: tuple[tuple[str, torch.Tensor | None], ...] | None
    gate_noise: float = 0.0

    @classmethod
    def build(
        cls, expert_ids: torch.Tensor, experts: Mapping[int, str], *, dense: bool, gate_noise: float = 0.0
    ) -> ExpertRouting | None:
        """Route `expert_ids` `(batch,)`. Returns None if every row takes the shared path (never for `dense`)."""
        if dense:
            return cls(expert_ids, experts, None, gate_noise)
        ids = expert_ids.tolist()
        groups = []
        for index, name in experts.items():
            rows = [row for row, expert_id in enumerate(ids) if expert_id == index]
            if len(rows) == len(ids):
                return cls(expert_ids, experts, ((name, None),), gate_noise)
            if rows:
                groups.append((name, torch.tensor(rows, device=expert_ids.device)))
        return cls(expert_ids, experts, tuple(groups), gate_noise) if groups else None
