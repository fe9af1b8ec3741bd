"""Transcripts: cleaned once for all sources, and turned into labels with the prompt of their language."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny import SPECIAL_IDS
from transformers import AutoTokenizer, WhisperTokenizer

from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.data.text import clean_text, text_fault, text_key, text_notes


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  Bon\tdia,\n\u00a0món\u3000! ", "Bon dia, món !"),
        ("e\u0301s", "és"),
        ("\ufeffso\u00adft\u200b\u200e", "soft"),
        ('"Hola," va dir.', '"Hola," va dir.'),
        ('"Hola."', "Hola."),
        ("«Hola.»", "Hola."),
        ('"Un" i "dos"', '"Un" i "dos"'),
        ('"', ""),
        ("", ""),
        (" … – !", ""),
        ("कि की", "कि की"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("ที่นี่", "ที่นี่"),
        ("7", "7"),
        ("a\ud800b", "ab"),
        ("AT&amp;T &quot;d&#39;aqu&#xED;&quot;", 'AT&T "d\'aquí"'),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("R&D, this&that; a &amp b &nosuchentity; &", "R&D, this&that; a &amp b &nosuchentity; &"),
    ],
)
def test_cleaning(raw: str, clean: str) -> None:
    """Prevents two spellings of one text, letters lost with their marks, and texts in which nothing is said."""
    assert clean_text(raw) == clean
    assert clean_text(clean) == clean


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("<|0.00|> Bon dia<|2.00|>", "special_token", "<|0.00|>"),
        ("Bon dia<|endoftext|>", "special_token", "<|endoftext|>"),
        ("<|ca|> bon dia", "special_token", "<|ca|>"),
        ("<|startoftranscript|>", "special_token", "<|startoftranscript|>"),
        ("a <| 1.5 |> b", "special_token", "<| 1.5 |>"),
        ("&lt;|0.00|&gt; bon dia", "special_token", "<|0.00|>"),
        ("&amp;lt;|0.00|&amp;gt; bon dia", "special_token", "<|0.00|>"),
        ("b\0o\0n\0", "damaged_text", "U+0000"),
        ("it\x92s", "damaged_text", "U+0092"),
        ("bon\x1bdia", "damaged_text", "U+001B"),
        ("D\ufffdj\ufffd vu", "damaged_text", "U+FFFD"),
        ("bon dia \ud83d", "damaged_text", "U+D83D"),
        ("&#0;bon dia", "damaged_text", "U+FFFD"),
        ("?!… -", "empty_text", "?!"),
        ("\u200b", "empty_text", "200b"),
        ("&nbsp;", "empty_text", "nbsp"),
        ("😀", "empty_text", "😀"),
    ],
)
def test_texts_that_say_something_else_are_refused(text: str, reason: str, detail: str) -> None:
    """Prevents timestamps and languages spelled out in letters, and letters that nobody wrote."""
    found = text_fault(text)
    assert found is not None and found[0] == reason and detail in found[1]
    found[1].encode()


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("Bon dia, «món» 😀 <a|b> |x| < | >", []),
        ("L\u2019home\ttranquil\r\n i la\u00a0dona", []),
        ("می\u200cخواهم", []),
        ("AT&amp;T", ["html_entities"]),
        ("e\u0301s", ["other_unicode_form"]),
        ("so\u00adft", ["invisible_characters"]),
        ("\ufeffe\u0301s&#8203; &lt;3", ["html_entities", "other_unicode_form", "invisible_characters"]),
    ],
)
def test_what_is_mended_in_a_text_is_known(text: str, notes: list[str]) -> None:
    """Prevents a data set of two spellings, whose half is changed without a word."""
    assert text_fault(text) is None
    assert text_notes(text) == notes


def test_texts_are_the_same_without_case_and_punctuation() -> None:
    """Prevents 'Hola!' in train and 'hola' in test; marks are letters: 'ที' and 'ที่' are two words."""
    assert text_key("Hola, món!") == text_key("hola món") == "hola món"
    assert text_key("L'home") != text_key("Lhome")
    assert text_key("ที่") != text_key("ที")
    assert text_key("कि") != text_key("की")


def ids(*names: str) -> list[int]:
    return [SPECIAL_IDS[f"<|{name}|>"] for name in names]


def test_labels_are_prompt_text_end(tokenizer) -> None:
    """Prevents a start token twice (Whisper's shift adds it), a prompt of another language, and a missing end."""
    labels = LabelBuilder(tokenizer, leading_space="never")("Hola", language="ca")
    assert labels[:3] == ids("ca", "transcribe", "notimestamps")
    assert labels[-1] == SPECIAL_IDS["<|endoftext|>"]
    assert tokenizer.decode(labels[3:-1]) == "Hola"
    translated = LabelBuilder(tokenizer, task="translate")("Hello", language="ca")
    assert translated[:3] == ids("ca", "translate", "notimestamps")


def test_the_text_begins_as_whisper_begins(tokenizer) -> None:
    """Prevents training against Whisper's habit: its first word has a space before it, but not in Thai."""
    as_whisper, never = LabelBuilder(tokenizer), LabelBuilder(tokenizer, leading_space="never")
    assert tokenizer.decode(as_whisper("Hola", language="ca")[3:-1]) == " Hola"
    assert as_whisper("ที่", language="th") == never("ที่", language="th")
    assert tokenizer.decode(never("Hola", language="ca")[3:-1]) == "Hola"


def test_special_tokens_in_a_transcript_are_text(tokenizer) -> None:
    """Prevents a transcript from ending its clip, changing its language and so its expert, or setting a timestamp."""
    labels = LabelBuilder(tokenizer)("a <|en|> b <|0.00|> <|endoftext|> c", language="ca")
    assert max(labels[3:-1]) < 50257
    assert tokenizer.backend_tokenizer.decode(labels[3:-1]) == " a <|en|> b <|0.00|> <|endoftext|> c"


def test_the_callers_tokenizer_is_neither_changed_nor_obeyed(tokenizer) -> None:
    """Prevents the language, truncation or padding that someone set on the tokenizer from getting into the labels."""
    before = tokenizer.prefix_tokens
    expected = LabelBuilder(tokenizer)("Bon dia a tothom", language="ca")
    tokenizer.set_prefix_tokens(language="gl", task="translate")
    tokenizer("Bon dia a tothom", truncation=True, max_length=4)
    changed = tokenizer.prefix_tokens
    assert LabelBuilder(tokenizer)("Bon dia a tothom", language="ca") == expected
    assert tokenizer.prefix_tokens == changed != before
    tokenizer.language = tokenizer.task = None
    tokenizer.set_prefix_tokens()
    tokenizer.backend_tokenizer.no_truncation()


def test_threads_and_processes_build_the_same_labels(tokenizer) -> None:
    """Prevents neighbours' languages mixed up by state, and another tokenisation in a worker."""
    builder = LabelBuilder(tokenizer)
    rows = [(f"text <|en|> {i}", ("ca", "gl", "uk", "th")[i % 4]) for i in range(400)]
    expected = [builder(text, language=language) for text, language in rows]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: builder(row[0], language=row[1]), rows)) == expected
    copied = pickle.loads(pickle.dumps(builder))
    assert [copied(text, language=language) for text, language in rows] == expected


def test_unknown_languages_tasks_and_spaces_are_named(tokenizer) -> None:
    """Prevents an unknown language from becoming <|endoftext|>, the tokenizer's unknown token."""
    builder = LabelBuilder(tokenizer)
    with pytest.raises(ValueError, match=r"Sardinian.*--language it --expert sc"):
        builder("Bona die", language="sc")
    with pytest.raises(ValueError, match="transcribe, translate, got 'translation'"):
        LabelBuilder(tokenizer, task="translation")
    with pytest.raises(ValueError, match="as_whisper, never, got 'always'"):
        LabelBuilder(tokenizer, leading_space="always")


def test_an_english_only_tokenizer_is_refused(tokenizer) -> None:
    """Prevents prompts with <|en|> for a model that has the token and never saw it."""
    vocabulary = {token: i - (i >= 50257) for token, i in tokenizer.get_vocab().items()}

    class EnglishOnly:
        backend_tokenizer = tokenizer.backend_tokenizer

        def get_vocab(self) -> dict[str, int]:
            return vocabulary

    with pytest.raises(ValueError, match="got an English-only one"):
        LabelBuilder(EnglishOnly())


@pytest.mark.real
def test_labels_of_the_real_tokenizer_are_those_of_transformers(real_base) -> None:
    """Prevents a private copy of the tokenizer that splits words otherwise than the real one."""
    tokenizer: WhisperTokenizer = AutoTokenizer.from_pretrained(real_base)
    builder = LabelBuilder(tokenizer)
    for language, text in (
        ("ca", "Bon dia, què fas?"),
        ("uk", "сім дев'ять"),
        ("th", "สวัสดีครับ"),
        ("en", "It's 3 p.m."),
    ):
        tokenizer.set_prefix_tokens(language=language, task="transcribe")
        space = "" if language == "th" else " "
        expected = tokenizer(space + text).input_ids
        assert expected[0] == SPECIAL_IDS["<|startoftranscript|>"]
        assert builder(text, language=language) == expected[1:]
