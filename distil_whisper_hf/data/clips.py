"""One record of an utterance, whatever source it comes from: what is trained on and what is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .audio import AudioSource

Task = Literal["transcribe", "translate"]

_GENDERS = {"f": "female", "female_feminine": "female", "m": "male", "male_masculine": "male"}


@dataclass(frozen=True)
class Clip:
    """An utterance.

    Attributes:
        id: name of the clip in reports, the same on every machine.
        audio: path, encoded bytes, a row of a table, or a segment of one of these.
        text: transcript; for `task="translate"` its English translation.
        language: Whisper's code, such as "ca"; for a language without one, the code of the language it is prompted as.
        speaker: identity of the speaker; empty if unknown.
        gender: "male", "female" or the source's own word; empty if unknown.
        age: as in the source, such as "twenties"; empty if unknown.
        expert: name of the expert to train, where the language token does not say it.
        up_votes: listeners who confirmed the transcript (Common Voice).
        down_votes: listeners who rejected it.
        seconds: length, filled in by screening.
        digest: of the encoded audio, filled in by screening; changed audio under an old id is another clip.
        labels: the transcript as token ids with prompt and end, as `LabelBuilder` makes them, filled in by screening.
        anchor: whether it only holds an expert to Whisper; its text is what Whisper said.
        previous: what was said before, as token ids from `<|startofprev|>` on, filled in by joining.
        split: the part that its table counts it to, as written there; empty if it does not say.
        table: name of the table that it is from; empty if it is from none.
        row: its row there, from 1 below the header.
        dataset: name of the data set that it is scored in, as in the report.
        domain: "in" or "out" of the domain that was trained on; empty where that is no question.
        task: what a model is asked for.
    """

    id: str
    audio: AudioSource
    text: str
    language: str
    speaker: str = ""
    gender: str = ""
    age: str = ""
    expert: str | None = None
    up_votes: int | None = None
    down_votes: int | None = None
    seconds: float | None = None
    digest: str | None = None
    labels: tuple[int, ...] | None = None
    anchor: bool = False
    previous: tuple[int, ...] = ()
    split: str = ""
    table: str = ""
    row: int | None = None
    dataset: str = ""
    domain: str = ""
    task: Task = "transcribe"

    @property
    def full_id(self) -> str:
        """The id over all data sets."""
        return f"{self.dataset}:{self.id}"

    @property
    def expert_name(self) -> str:
        """The expert that the clip trains, if there is one of that name: the one it names, else its language's."""
        return self.expert or self.language


def unique_ids(clips: Sequence[Clip]) -> tuple[list[Clip], dict[str, int]]:
    """The clips with ids that are unique in their data set, and how often each repeated id (full) occurs.

    Repetitions stay, as "id#2", "id#3": a data set that names two clips alike must not lose one of them.
    """
    seen: Counter[str] = Counter()
    taken = {clip.full_id for clip in clips}
    result = []
    for clip in clips:
        seen[clip.full_id] += 1
        number = seen[clip.full_id]
        if number > 1:
            while f"{clip.full_id}#{number}" in taken:
                number += 1
            clip = replace(clip, id=f"{clip.id}#{number}")
            taken.add(clip.full_id)
        result.append(clip)
    return result, {name: times for name, times in seen.items() if times > 1}


def gender_name(gender: str) -> str:
    """Lower case, with the older and newer words of Common Voice made one."""
    lowered = gender.strip().lower()
    return _GENDERS.get(lowered, lowered)
