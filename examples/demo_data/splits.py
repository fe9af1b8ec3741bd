"""Train, dev and test of prompts: by text, near copies on one side, and no test word that training does not have."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from prompts import Prompt
from vocabulary import WINDOW_S

SIZES = {"test": 60, "dev": 40}
# Texts from this many words on that differ in one word are near copies.
NEAR_WORDS = 4
# More near copies than this are left to training.
LARGEST_FAMILY = 4


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


def split_texts(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Text -> "train", "dev", "test" or "none", for the prompts of one language.

    Test and dev take, in the order of a hash, prompts of at least two words that fit the window and all of whose words
    stay in other prompts, in training. Texts of four or more words that differ in one word go to the same side. A
    text that is a part of a longer training prompt is used for nothing.
    """
    families = _families(sorted({prompt.text for prompt in prompts}))
    longest: dict[str, float] = defaultdict(float)
    for prompt in prompts:
        longest[prompt.text] = max(longest[prompt.text], prompt.seconds)
    counts = Counter(word for family in families for text in family for word in set(text.split()))
    sides = {prompt.text: "train" for prompt in prompts}
    sizes = dict.fromkeys(SIZES, 0)
    for family in sorted(families, key=lambda family: share_of(family[0])):
        own = Counter(word for text in family for word in set(text.split()))
        fits = all(len(text.split()) > 1 and longest[text] <= WINDOW_S for text in family)
        if len(family) > LARGEST_FAMILY or not fits or any(counts[word] == own[word] for word in own):
            continue
        # The side that has the smaller part of what it is to have.
        side = min(SIZES, key=lambda name: sizes[name] / SIZES[name])
        if sizes[side] >= SIZES[side]:
            break
        sides |= dict.fromkeys(family, side)
        sizes[side] += len(family)
        counts -= own
    learnt = [f" {text} " for text, side in sides.items() if side == "train"]
    heard = [text for text, side in sides.items() if side != "train" and any(f" {text} " in known for known in learnt)]
    return sides | dict.fromkeys(heard, "none")


def _families(texts: list[str]) -> list[list[str]]:
    """Texts in groups: near copies of near copies are together."""
    words = [text.split() for text in texts]
    families = list(range(len(texts)))
    for later in range(len(texts)):
        for earlier in range(later):
            if near_copies(words[later], words[earlier]):
                old, new = families[later], families[earlier]
                families = [new if family == old else family for family in families]
    groups = defaultdict(list)
    for text, family in zip(texts, families, strict=True):
        groups[family].append(text)
    return list(groups.values())


def near_copies(first: list[str], second: list[str]) -> bool:
    """Whether two texts, as words, differ in one word that is another, or is missing."""
    shorter, longer = sorted((first, second), key=len)
    if len(shorter) < NEAR_WORDS or len(longer) - len(shorter) > 1:
        return False
    if len(shorter) == len(longer):
        return sum(one != other for one, other in zip(first, second, strict=True)) <= 1
    return any(shorter == longer[:place] + longer[place + 1 :] for place in range(len(longer)))
