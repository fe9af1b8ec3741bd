"""Telephone prompts in two languages, from Debian's packages of them: sound, text, and which of them are kept.

The texts are those of the packages with three changes, so that they say what is spoken: digits are written as words,
the letters that the Italian list lost to question marks are put back, and everything is in lower case without
punctuation. Prompts are left out whose text describes a sound or holds an aside, a single letter, or an abbreviation.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "audio"))

from fetch import SAMPLING_RATE, decode_g722, read_texts, unpack

LANGUAGES = ("es", "it")
SHORTEST_S, LONGEST_S = 0.4, 40.0
# Spoken characters per second; outside, text and sound are not of each other.
SLOWEST, FASTEST = 2.5, 26.0
DIGITS = {
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "it": "zero uno due tre quattro cinque sei sette otto nove",
}
LETTERS = {
    "es": "a-záéíóúüñ",
    "it": "a-zàèéìòù",
}
# The list of Italian prompts has these with a question mark for the accented letter.
RESTORED = {"sar?": "sarà", "pu?": "può", "cos?": "così", "pi?": "più", " ? ": " è "}
# Sounds, not speech; letters and spelling words, one or two of a kind; abbreviations spelled as letters.
LEFT_OUT = re.compile(r"^(silence/|letters/|phonetic/|spy-|beep|.*tone|tt-monkeys$|.*beep|is$)")
ASIDE = re.compile(r"[\[\](){}<>@]|\d{2}|[A-Z]{2}|\b[A-Z] [A-Z]\b")


@dataclass(frozen=True)
class Prompt:
    """One prompt: its name in the package, language, text as spoken, and samples `(samples,)`, int16 at 16 kHz."""

    name: str
    language: str
    text: str
    samples: np.ndarray

    @property
    def seconds(self) -> float:
        """Length in s."""
        return len(self.samples) / SAMPLING_RATE


def spoken_text(text: str, language: str) -> str | None:
    """Lower-case words as they are said, or None for a text that is not plainly that."""
    if language == "it":
        for lost, whole in RESTORED.items():
            text = text.replace(lost, whole)
    if ASIDE.search(text):
        return None
    words = DIGITS[language].split()
    text = re.sub(r"\d", lambda digit: f" {words[int(digit[0])]} ", text)
    text = unicodedata.normalize("NFC", text.lower()).replace("’", "'")
    # An apostrophe stays inside a word (l'utente, you're); as an accent or a quote it goes.
    text = re.sub(r"(?<!\w)'|'(?!\w)", " ", text)
    text = " ".join(re.sub(r"[^\w' ]|_", " ", text).split())
    return (
        text
        if re.fullmatch(rf"[{LETTERS[language]}' ]*[{LETTERS[language]}]{{2}}[{LETTERS[language]}' ]*", text)
        else None
    )


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Without silence at either end but for 0.1 s of it."""
    hop = SAMPLING_RATE // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64)
    loud = np.flatnonzero(np.abs(frames).max(axis=1) > 0.02 * np.abs(frames).max())
    first, last = max(0, loud[0] - 10), loud[-1] + 11
    return samples[first * hop : last * hop]


def fetch_prompts(language: str, scratch: Path) -> list[Prompt]:
    """Download a language's packages into `scratch` (unless they are there) and return the prompts that are kept."""
    package = f"asterisk-core-sounds-{language}"
    folders = [
        scratch / name if (scratch / name).is_dir() else unpack(name, into=scratch)
        for name in (package, f"{package}-g722")
    ]
    texts = read_texts(folders[0])
    (sounds,) = folders[1].glob("usr/share/asterisk/sounds/*")
    kept = []
    for name, listed in sorted(texts.items()):
        path = sounds / f"{name}.g722"
        text = spoken_text(listed, language)
        if LEFT_OUT.match(name) or text is None or not path.is_file():
            continue
        prompt = Prompt(name, language, text, trimmed(decode_g722(path)))
        rate = len(text) / prompt.seconds
        if SHORTEST_S <= prompt.seconds <= LONGEST_S and SLOWEST <= rate <= FASTEST:
            kept.append(prompt)
    return kept
