"""The one place that knows a language: Whisper's codes and English names, and what else people call them.

Whisper's own codes, names and tokens, and its codes with a region ("pt-BR"), need nothing but transformers. Everything
else (ISO 639-2 and 639-3, scripts, old codes, what has no token) is looked up in the tables of the library langcodes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

# Whisper's code -> English name in lower case, in the order of the language tokens.
WHISPER_LANGUAGES: dict[str, str] = dict(LANGUAGES)

# Languages usually written without spaces between words: a "word" is then a phrase, and characters must be counted.
UNSPACED_LANGUAGES = frozenset({"bo", "dz", "ja", "km", "lo", "my", "shn", "th", "wuu", "yue", "zh"})
# Whisper begins a transcript with a space in all languages but these, which its tokenizer splits into characters. A
# list of its own: Whisper treats Khmer and Tibetan like languages with spaces, whatever their spelling.
NO_LEADING_SPACE_LANGUAGES = frozenset({"ja", "lo", "my", "th", "yue", "zh"})

# What is no code of Whisper's, and Whisper's code of it. Bokmål is what Whisper calls Norwegian, beside Nynorsk, and
# the national language of the Philippines is a form of Tagalog; langcodes has neither so.
_OTHER_CODES = {"fil": "tl", "jv": "jw", "nb": "no"}
_OTHER_NAMES = {"bangla": "bn", "bokmal": "no", "bokmål": "no", "farsi": "fa"}
# langcodes takes Serbo-Croatian and Montenegrin for Serbian: the first may be Croatian or Bosnian as well.
_NOT_SERBIAN = {"cnr": "cnr", "hbs": "sh", "sh": "sh"}
# Whisper's codes that the Hub knows by another.
_HUB_CODES = {"jw": "jv"}

_TOKEN = re.compile(r"<\|(.*)\|>")
_CODE_AND_REGION = re.compile(r"([a-z]{2,3})-(?:[a-z]{2}|[0-9]{3})")
_NAME_AND_DETAIL = re.compile(r"([^()]+?) ?\(([^()]+)\)")
# Said of a kind of a language, beside the names and codes of regions and scripts.
_DETAILS = frozenset({"simplified", "traditional", "uk", "usa"})
# Of langcodes' matching: from there on two languages have nothing to do with each other.
_FARTHEST_PROXY = 80


def language_code(language: str, known: Collection[str] | None = None) -> str:
    """Whisper's code of a language, whatever it is called: "ca" for "ca", "Catalan", "<|ca|>", "cat", "ca_es".

    Known are Whisper's codes, names and tokens, in any case; ISO 639-1, 639-2 (both kinds) and 639-3; tags with
    regions, scripts and variants, with "-" or "_", so the spellings of FLEURS, Common Voice and FLORES; withdrawn
    codes; English names in ISO 639, also with a region or script ("English (US)"). Norwegian and Bokmål are "no",
    Nynorsk is "nn". A language of its own is never taken for a relative: Swiss German is not "de", Wu not "zh",
    Egyptian Arabic not "ar". A region changes nothing: "zh-HK" is "zh", though Common Voice's clips under it are
    Cantonese; name them "yue".

    Args:
        language: code, English name or token.
        known: codes that a vocabulary has tokens for; others are refused, and its own ones accepted. None: Whisper's.
            A vocabulary of 51865 outputs has no `<|yue|>`: Cantonese is refused there, not taken for "zh", and trained
            as every language without a token is: by an expert of that name with a proxy, such as "zh".

    Raises:
        ValueError: an empty string, no language that is known, or one without a token.
        ImportError: langcodes is needed and not installed.
    """
    key = _key(language)
    if known is not None and key in known:
        return key
    code = _whisper_code(key)
    if code is None or (known is not None and code not in known):
        raise ValueError(_refusal(language, key, WHISPER_LANGUAGES if known is None else known))
    return code


def language_tag(language: str) -> str:
    """The name of a language in data and reports: Whisper's code where there is one, else the one it goes by itself.

    A language without a token keeps its own code, without region and script ("sc-IT" is "sc"), and a name that no
    table has stays as it is, in lower case: an expert may go by it.

    Raises:
        ValueError: an empty string.
        ImportError: langcodes is needed and not installed.
    """
    key = _key(language)
    code = _whisper_code(key)
    if code is not None:
        return code
    parsed, primary = _parsed(key), key.split("-")[0]
    if parsed is None:
        return key
    # The first part names the language, but in tags such as "zh-min-nan".
    return primary if _parsed(primary) == parsed else parsed


def token_language(token: str) -> str:
    """The code in a language token of a vocabulary, Whisper's or not: "<|ca|>" -> "ca"."""
    return token.removeprefix("<|").removesuffix("|>")


def language_name(language: str) -> str:
    """English name of a language, without what ISO 639 has behind it in brackets: "Catalan"; as given if unknown."""
    key = _key(language)
    code = _whisper_code(key)
    if code is not None:
        return WHISPER_LANGUAGES[code].title()
    subtag = _subtag(key)
    return language if subtag is None else _registry().descriptions[subtag]


def hub_language(language: str) -> str:
    """The code under which the Hub lists a language: that of `language_tag`, but "jv" for Javanese."""
    tag = language_tag(language)
    return _HUB_CODES.get(tag, tag)


def is_unspaced(language: str | None) -> bool:
    """Whether words of this language are not separated by spaces, so that CER comes first (`None`: False)."""
    return language is not None and language_tag(language) in UNSPACED_LANGUAGES


def _key(language: str) -> str:
    """In lower case, without the signs of a token, words separated by single spaces and subtags by hyphens."""
    key = unicodedata.normalize("NFC", " ".join(language.split())).lower()
    found = _TOKEN.fullmatch(key)
    key = (found[1].strip() if found else key).replace("_", "-")
    if not key:
        raise ValueError(f"Expected a language, a code or an English name ('ca', 'Catalan'), got {language!r}: empty.")
    return key


@lru_cache(maxsize=4096)
def _whisper_code(key: str) -> str | None:
    """Whisper's code, in any vocabulary, or None."""
    if key in WHISPER_LANGUAGES:
        return key
    name = key.replace("-", " ")
    for table in (TO_LANGUAGE_CODE, _OTHER_NAMES):
        if name in table:
            return table[name]
    found = _CODE_AND_REGION.fullmatch(key)
    primary = found[1] if found else key
    if primary in WHISPER_LANGUAGES:
        return primary
    if primary in _OTHER_CODES:
        return _OTHER_CODES[primary]
    subtag = _subtag(key)
    if subtag is None or subtag in _NOT_SERBIAN:
        return None
    # The member of a macrolanguage that is meant by its name becomes it (arb: ar); the others stay what they are.
    macro = _langcodes(key).Language.get(_langcodes(key).standardize_tag(subtag, macro=True)).language
    code = _OTHER_CODES.get(macro, macro)
    return code if code in WHISPER_LANGUAGES else None


@dataclass(frozen=True)
class _Registry:
    """The IANA registry of subtags: names by code, codes by name (lower case), and what may stand beside them."""

    descriptions: dict[str, str]
    languages: dict[str, str]
    scripts: frozenset[str]
    variants: frozenset[str]
    details: frozenset[str]


@cache
def _registry() -> _Registry:
    from langcodes.registry_parser import parse_registry

    descriptions: dict[str, str] = {}
    languages: dict[str, str] = {}
    subtags: dict[str, set[str]] = {"script": set(), "region": set(), "variant": set()}
    details = set(_DETAILS)
    # Two letters before three, and what is withdrawn last, for the first of two languages of one name counts.
    entries = sorted(parse_registry(), key=lambda entry: ("Deprecated" in entry, len(entry.get("Subtag", ""))))
    for entry in entries:
        subtag, names = entry.get("Subtag", "").lower(), entry["Description"]
        if ".." in subtag:
            continue
        if entry["Type"] == "language" and entry.get("Scope") not in ("collection", "special", "private-use"):
            descriptions[subtag] = re.sub(r" \(.*\)", "", names[0])
            for name in names:
                languages.setdefault(name.lower(), subtag)
                languages.setdefault(re.sub(r" \(.*\)", "", name.lower()), subtag)
        elif entry["Type"] in subtags:
            subtags[entry["Type"]].add(subtag)
            if entry["Type"] != "variant":
                details |= {subtag, *(name.lower() for name in names)}
    scripts, variants = frozenset(subtags["script"]), frozenset(subtags["variant"])
    return _Registry(descriptions, languages, scripts, variants, frozenset(details))


def _subtag(key: str) -> str | None:
    """ISO 639's code (the shortest) of what is a tag or an English name of a language; else None."""
    parsed = _parsed(key)
    if parsed is not None:
        return parsed
    names = _registry().languages
    name = key.replace("-", " ")
    found = _NAME_AND_DETAIL.fullmatch(name)
    if name in names or found is None:
        return names.get(name)
    language, detail = found.groups()
    if detail in _registry().details:
        return _subtag(TO_LANGUAGE_CODE.get(language, language))
    # "Norwegian (Nynorsk)" is not Norwegian, nor "German (Swiss)" German.
    for kind in (f"{detail} {language}", detail):
        subtag = TO_LANGUAGE_CODE.get(kind, _OTHER_NAMES.get(kind, names.get(kind)))
        if subtag is not None:
            return subtag
    return None


def _parsed(key: str) -> str | None:
    """The language in a tag whose every part is registered, as ISO 639's shortest code; None for what is no tag."""
    langcodes = _langcodes(key)
    # Before the library, which makes another language of it.
    primary = key.split("-")[0]
    if primary in _NOT_SERBIAN:
        return _NOT_SERBIAN[primary]
    try:
        parsed = langcodes.Language.get(key)
    except langcodes.LanguageTagError:
        return None
    registry = _registry()
    script, variants = (parsed.script or "").lower(), {variant.lower() for variant in parsed.variants or ()}
    if parsed.language not in registry.descriptions or parsed.extlangs or not variants <= registry.variants:
        return None
    return parsed.language if script in ("", *registry.scripts) else None


def _langcodes(key: str) -> Any:
    # Imported here, and in a `try`, so that remote code opens where it is not installed.
    try:
        import langcodes
    except ImportError as error:
        raise ImportError(
            f"Expected langcodes, to look up the language {key!r}, which is none of Whisper's codes and names. "
            "Run `pip install langcodes`."
        ) from error
    return langcodes


def _refusal(language: str, key: str, known: Collection[str]) -> str:
    """Why a language is not taken, what is near it, and how to train it."""
    codes = [code for code in WHISPER_LANGUAGES if code in known]
    if _whisper_code(key) is not None or _subtag(key) is not None:
        name = language_name(key)
        proxies = _proxies(key, codes)
        said = f"{language!r}" if name.lower() == key else f"{language!r} ({name})"
        what = f"{said}, which has none here; train it"
        expert = _subtag(key) if _parsed(key) is None else language_tag(key)
        proxy = proxies[0] if proxies else "it"
    else:
        near = _near_names(key, codes)
        hint = f"did you mean {' or '.join(near)}?" if near else "no name is near it"
        what = f"{language!r}, no language's code or English name ({hint}); train one without a token (Sardinian, say)"
        expert, proxy = "sc", "it"
    return (
        f"Expected a language that Whisper has a token for, got {what} by an expert of its own name, under a close "
        "language's token: "
        f'`--language {proxy} --expert {expert}`, or `model.add_expert("{expert}", language="{proxy}")`.'
    )


def _proxies(key: str, codes: list[str]) -> list[str]:
    """The language among `codes` that serves speakers of another one best, by CLDR's table; at most one."""
    langcodes = _langcodes(key)
    by_tag = {_HUB_CODES.get(code, code): code for code in codes}
    subtag = _whisper_code(key) or _subtag(key)
    found = langcodes.closest_supported_match(subtag, list(by_tag), max_distance=_FARTHEST_PROXY)
    return [] if found is None else [by_tag[found]]


def _near_names(key: str, codes: list[str]) -> list[str]:
    """Up to three languages whose name, code, first part or country is nearly what was written."""
    spelled = {WHISPER_LANGUAGES[code]: code for code in codes} | {code: code for code in codes}
    spelled |= {name: code for name, code in (TO_LANGUAGE_CODE | _OTHER_NAMES).items() if code in codes}
    near = [spelled[name] for name in get_close_matches(key.replace("-", " "), list(spelled), n=5, cutoff=0.7)]
    # "ca-medical" is meant for Catalan, "jp" for what is spoken in Japan.
    likely = key.split("-")[0]
    if re.fullmatch(r"[a-z]{2}", key) and key in _registry().details:
        likely = _langcodes(key).Language.make(territory=key.upper()).maximize().language
    near = [code for code in codes if code == likely] + near
    return [f"{WHISPER_LANGUAGES[code].title()} ({code})" for code in dict.fromkeys(near)][:3]
