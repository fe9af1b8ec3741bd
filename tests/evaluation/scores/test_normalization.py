import pickle
import random
import unicodedata

import pytest

from distil_whisper_hf.evaluation.scores.normalization import (
    get_normalizer,
    normalize_unicode,
)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("hi", "कि की कु के"),
        ("th", "ที่นี่ ไม่มี น้ำ"),
        ("ta", "தமிழ் மொழி கொடு"),
        ("bn", "বাংলা ভাষা কি কী"),
        ("my", "မြန်မာ"),
    ],
)
def test_unicode_keeps_every_combining_mark(language, text):
    """Without its vowel signs a wrong Hindi or Thai word equals the right one, and the error rate is too low."""
    result = get_normalizer("unicode", language)(text)
    marks = [c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c).startswith("M")]
    assert marks
    assert [c for c in result if unicodedata.category(c).startswith("M")] == marks
    assert len(result.split()) == len(text.split())


def test_hindi_words_that_differ_in_a_vowel_sign_stay_different():
    """Whisper's basic normaliser makes them equal: the reason why it is not the default."""
    basic, unicode = get_normalizer("basic"), get_normalizer("unicode")
    assert basic("कि") == basic("की")
    assert unicode("कि") != unicode("की")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("L’home d'Alacant", "l'home d'alacant"),
        ("dona'm-ho", "dona'm ho"),
        ("п’ять, п'ять; пʼять", "п'ять п'ять п'ять"),
        ("Aujourd`hui", "aujourd'hui"),
        ("l´eau", "l'eau"),
        ("‘quoted’ 'words' ''twice''", "quoted words twice"),
        ("the dogs' bowl", "the dogs bowl"),
        ("rock 'n' roll, 1'000", "rock n roll 1 000"),
        ("' '' ’", ""),
    ],
)
def test_apostrophe_is_kept_between_letters_only(text, expected):
    """A typographic and a typewriter apostrophe must not count as an error, nor a quotation mark as a word."""
    assert normalize_unicode(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vint-i-cinc", "vint i cinc"),
        ("будь-який", "будь який"),
        ("porte‑monnaie – oui", "porte monnaie oui"),
        ("intel·ligent INTEL•LIGENT intel‧ligent inteŀligent", " ".join(["intel·ligent"] * 4)),
        ("a·b · c", "a b c"),
        ("ジョン・スミス", "ジョン スミス"),
    ],
)
def test_hyphens_and_dots(text, expected):
    """A hyphen cannot be heard; the Catalan dot is part of its word, other dots are not."""
    assert normalize_unicode(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Straße", "strasse"),
        ("ΛΌΓΟΣ", "λόγοσ"),
        ("３ कि ५, 3.14", "3 कि 5 3 14"),
        ("co\u00adoperate می\u200cخواهم", "cooperate میخواهم"),
        ("ไทย\u200bไทย", "ไทย ไทย"),
        ("I ❤️ you 👍🏽!", "i you"),
        ("1️⃣ one", "1 one"),
        ("a \u25cc\u0301 \u0301b '\u0301c", "a b c"),
        ("\t a \n\u00a0 b_c ", "a b c"),
        ("¿Qué? «oui» „ja“ 。、", "qué oui ja"),
        ("e\u0301", "é"),
        ("", ""),
    ],
)
def test_the_other_rules(text, expected):
    """Each rule of the docstring by one example; a mark left over by an emoji must not become a word."""
    assert normalize_unicode(text) == expected


def test_turkish_dotless_i():
    """General case folding makes "ISI" and "ısı" two words in Turkish."""
    turkish = get_normalizer("unicode", "Turkish")
    assert turkish("ISI İZ") == turkish("ısı iz") == "ısı iz"
    assert get_normalizer("unicode", "en")("ISI") == "isi"


def test_unicode_is_idempotent_on_random_text():
    """A second pass that changes the text means that the rules depend on how the text was typed."""
    generator = random.Random(0)
    blocks = [(0x20, 0x17F), (0x2B0, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF), (0xE00, 0xFFF), (0x1000, 0x109F)]
    blocks += [(0x1E00, 0x206F), (0x2C00, 0x30FF), (0xA640, 0xABFF), (0xFB00, 0xFFEF), (0x1F300, 0x1F6FF)]
    for _ in range(4000):
        text = "".join(chr(generator.randint(*generator.choice(blocks))) for _ in range(12))
        once = normalize_unicode(text)
        assert normalize_unicode(once) == once, [hex(ord(c)) for c in text]
        assert once == once.strip() and "  " not in once


@pytest.mark.parametrize("name", ["unicode", "basic", "english", "none"])
def test_normalizer_names_itself_and_can_be_pickled(name):
    """A figure without the name of its normaliser cannot be compared with any other."""
    normalizer = get_normalizer(name)
    assert normalizer.name == name and normalizer.label.startswith(name)
    copy = pickle.loads(pickle.dumps(normalizer))
    assert copy("Hello, WORLD!") == normalizer("Hello, WORLD!")


def test_none_changes_nothing_and_whispers_own_are_whispers():
    assert get_normalizer("none")("  A, b! ") == "  A, b! "
    assert get_normalizer("basic")("[noise] Hello, World!") == "hello world"
    assert get_normalizer("english", "en")("I won't pay twenty five dollars") == "i will not pay $25"


def test_absence_of_the_spelling_table_is_printed():
    """Rates of Whisper's "english" with the table, and of ours without it, are not the same measure."""
    without = get_normalizer("english")
    assert without("colour") == "colour" and "no spelling table" in without.label


def test_wrong_choices_raise_with_the_alternatives():
    with pytest.raises(ValueError, match="'unicode', 'basic', 'english', 'none'"):
        get_normalizer("whisper")
    with pytest.raises(ValueError, match="'ca'"):
        get_normalizer("english", "ca")
