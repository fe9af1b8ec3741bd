"""What a program would do with its speech, said without doing it: `--dry_run`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from transformers import WhisperTokenizer

from ..data.audio import JoinedAudio
from ..data.clips import Clip
from ..data.labels import LabelBuilder
from ..data.rejections import Rejection

ROWS = 5


def preview(clips: Iterable[Clip | Rejection], tokenizer: WhisperTokenizer, labels: LabelBuilder) -> str:
    """The first rows as the model will see them: clip, length, expert, and every token of the labels as text."""
    rows = list(islice((clip for clip in clips if isinstance(clip, Clip)), ROWS))
    lines = [f"The first {len(rows)} rows, as the model sees them:" if rows else "No row is left to train on."]
    for clip in rows:
        ids = clip.labels or labels(clip.text, language=clip.language)
        length = "length unknown" if clip.seconds is None else f"{clip.seconds:.2f} s"
        name = str(clip.audio) if isinstance(clip.audio, JoinedAudio) else clip.id
        lines.append(f"  {name} ({length}, expert {clip.expert_name})")
        # With times, which decoders leave out otherwise.
        lines.append(f"    {tokenizer.decode([*clip.previous, *ids], decode_with_timestamps=True)}")
    return "\n".join(lines)


def count(clips: Sequence[Clip]) -> str:
    """Clips, hours, speakers and languages of a set, on one line."""
    speakers = {clip.speaker for clip in clips if clip.speaker}
    hours = sum(clip.seconds or 0.0 for clip in clips) / 3600
    languages = ", ".join(sorted({clip.language for clip in clips})) or "no language"
    known = f"{len(speakers)} speakers" if speakers else "speakers unknown"
    return f"{len(clips)} clips, {hours:.2f} h, {known}, {languages}"
