"""One rule for languages: what each spelling stands for, and what is refused rather than taken for a relative."""

from __future__ import annotations

import string
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from models import with_experts
from tiny import tiny_tokenizer
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.languages import (
    NO_LEADING_SPACE_LANGUAGES,
    WHISPER_LANGUAGES,
    hub_language,
    is_unspaced,
    language_code,
    language_name,
    language_tag,
    token_language,
)
from distil_whisper_hf.original_release import original_filename, original_language
from distil_whisper_hf.pipeline_distil_whisper import DistilWhisperASRPipeline
from distil_whisper_hf.tokenization_distil_whisper import DistilWhisperTokenizer

PACKAGE = Path(__file__).parents[1] / "distil_whisper_hf"
# Of the models up to large-v2.
OLDER = frozenset(WHISPER_LANGUAGES) - {"yue"}

# Written out by hand, from each list's own English names: locale -> Whisper's code, None where Whisper has no token.
# fmt: off
FLEURS = {
    "af_za": "af", "am_et": "am", "ar_eg": "ar", "as_in": "as", "ast_es": None, "az_az": "az", "be_by": "be",
    "bg_bg": "bg", "bn_in": "bn", "bs_ba": "bs", "ca_es": "ca", "ceb_ph": None, "ckb_iq": None, "cmn_hans_cn": "zh",
    "cs_cz": "cs", "cy_gb": "cy", "da_dk": "da", "de_de": "de", "el_gr": "el", "en_us": "en", "es_419": "es",
    "et_ee": "et", "fa_ir": "fa", "ff_sn": None, "fi_fi": "fi", "fil_ph": "tl", "fr_fr": "fr", "ga_ie": None,
    "gl_es": "gl", "gu_in": "gu", "ha_ng": "ha", "he_il": "he", "hi_in": "hi", "hr_hr": "hr", "hu_hu": "hu",
    "hy_am": "hy", "id_id": "id", "ig_ng": None, "is_is": "is", "it_it": "it", "ja_jp": "ja", "jv_id": "jw",
    "ka_ge": "ka", "kam_ke": None, "kea_cv": None, "kk_kz": "kk", "km_kh": "km", "kn_in": "kn", "ko_kr": "ko",
    "ky_kg": None, "lb_lu": "lb", "lg_ug": None, "ln_cd": "ln", "lo_la": "lo", "lt_lt": "lt", "luo_ke": None,
    "lv_lv": "lv", "mi_nz": "mi", "mk_mk": "mk", "ml_in": "ml", "mn_mn": "mn", "mr_in": "mr", "ms_my": "ms",
    "mt_mt": "mt", "my_mm": "my", "nb_no": "no", "ne_np": "ne", "nl_nl": "nl", "nso_za": None, "ny_mw": None,
    "oc_fr": "oc", "om_et": None, "or_in": None, "pa_in": "pa", "pl_pl": "pl", "ps_af": "ps", "pt_br": "pt",
    "ro_ro": "ro", "ru_ru": "ru", "sd_in": "sd", "sk_sk": "sk", "sl_si": "sl", "sn_zw": "sn", "so_so": "so",
    "sr_rs": "sr", "sv_se": "sv", "sw_ke": "sw", "ta_in": "ta", "te_in": "te", "tg_tj": "tg", "th_th": "th",
    "tr_tr": "tr", "uk_ua": "uk", "umb_ao": None, "ur_pk": "ur", "uz_uz": "uz", "vi_vn": "vi", "wo_sn": None,
    "xh_za": None, "yo_ng": "yo", "yue_hant_hk": "yue", "zu_za": None,
}
COMMON_VOICE_CODES = (
    "af am ar as az ba be bg bn br bs ca cs cy da de el en es et eu fa fi fo fr gl ha haw he hi hr ht hu id is it ja "
    "ka kk km kn ko lb ln lo lt lv mg mk ml mn mr ms mt my nl oc pl ps pt ro ru sd si sk sl sn so sq sr su sw ta te "
    "tg th tk tl tr tt uk ur uz vi yi yo yue"
)
COMMON_VOICE_UNKNOWN = (
    "ab ace ady an arn ast bas bm bxr cak ceb ckb cnh co crh cv dag dsb dv dyu ee eo fan ff gn gsw hil hsb ia ie ig "
    "izh jbo kaa kab kbd ki kmr kpv kw ky lg lij ltg luo lzz mai mdf mhr mni mos mrj myv nhe nhi nia nr nso ny nyn om "
    "or os pai quc quy rw sah sat sc scn sdh shi skr snk ss ssw st syr szl ti tig tn to tok trv ts tw tyv udm ug ve "
    "vec vmw vot wep wo xh xmf zgh zu zza"
)
COMMON_VOICE = {
    "fy-NL": None, "ga-IE": None, "gu-IN": "gu", "hy-AM": "hy", "nan-tw": None, "nb-NO": "no", "ne-NP": "ne",
    "nn-NO": "nn", "pa-IN": "pa", "pap-AW": None, "rm-sursilv": None, "rm-vallader": None, "sv-SE": "sv",
    "zh-CN": "zh", "zh-HK": "zh", "zh-TW": "zh", "jv": "jw", "knn": None, "gom": None, "hyw": None, "uby": None,
} | {code: code for code in COMMON_VOICE_CODES.split()} | dict.fromkeys(COMMON_VOICE_UNKNOWN.split())
SPELLINGS = {
    "Catalan": "ca", "CATALAN": "ca", " ca ": "ca", "<|ca|>": "ca", "<|CA|>": "ca", "<|catalan|>": "ca",
    "valencian": "ca", "ca-valencia": "ca", "cat": "ca", "cat_Latn": "ca", "Castilian": "es", "Flemish": "nl",
    "Haitian_Creole": "ht", "pol": "pl", "ger": "de", "deu": "de", "fre": "fr", "fra": "fr", "alb": "sq", "sqi": "sq",
    "may": "ms", "msa": "ms", "mao": "mi", "mri": "mi", "rum": "ro", "ron": "ro", "mo": "ro", "mol": "ro",
    "no": "no", "nor": "no", "nob": "no", "nb": "no", "Norwegian": "no", "Bokmål": "no", "nn": "nn", "nno": "nn",
    "Nynorsk": "nn", "Norwegian Nynorsk": "nn", "Norwegian (Nynorsk)": "nn", "jw": "jw", "jav": "jw",
    "Javanese": "jw", "iw": "he", "heb": "he", "in": "id", "ind": "id", "ji": "yi", "pt-BR": "pt", "PT_br": "pt",
    "sr-Latn": "sr", "sr-Cyrl-RS": "sr", "zh-Hant": "zh", "zho_Hans": "zh", "cmn": "zh", "zh-cmn-Hans": "zh",
    "zh-yue": "yue", "Cantonese": "yue", "Chinese (Cantonese)": "yue", "Chinese (Traditional)": "zh",
    "Mandarin": "zh", "arb_Arab": "ar", "azj": "az", "swh": "sw", "zsm": "ms", "lvs": "lv", "ekk": "et", "pes": "fa",
    "npi": "ne", "khk": "mn", "plt": "mg", "uzn": "uz", "tgl": "tl", "Filipino": "tl", "english (us)": "en",
    "English (United Kingdom)": "en", "Portuguese (Brazil)": "pt", "Serbian (Latin)": "sr", "en_XX": "en",
}
REFUSED = (
    "gsw", "scn", "sc", "ga", "ab", "wuu", "hak", "nan", "zh-min-nan", "arz", "ary", "apc", "nds", "sh", "hbs", "cnr",
    "vro", "ltg", "pnb", "ckb", "kmr", "German (Swiss)", "Arabic (Egyptian)", "Sardinian", "Swiss German",
    "und", "mul", "zxx", "qaa", "x-ca", "jp", "cz", "catlan", "so-called", "my-own", "he-said", "no-thing",
    "ca-medical", "ca medical", "word", "english (old)", "spanglish", "de-facto", "123", "ca,es", "<|transcribe|>",
)
# fmt: on


@pytest.mark.parametrize("table", [FLEURS, COMMON_VOICE, SPELLINGS], ids=["fleurs", "common voice", "others"])
def test_spellings_of_data_sets(table: dict[str, str | None]) -> None:
    """Silent: clips trained under a relative's token, Bokmål beside Nynorsk, or a locale that nobody's rule knows."""
    assert len(FLEURS) == 102
    for spelling, code in table.items():
        for written in (spelling, spelling.upper(), spelling.replace("_", "-")):
            if code is not None:
                assert language_code(written) == language_tag(written) == code, written
                continue
            with pytest.raises(ValueError, match="Whisper has a token for"):
                language_code(written)
            assert language_tag(written) == spelling.lower().replace("_", "-").split("-")[0]


@pytest.mark.parametrize("language", REFUSED)
def test_what_is_refused(language: str) -> None:
    """Silent: a longer word or a language of its own taken for a code that it begins with or is related to."""
    with pytest.raises(ValueError, match="Whisper has a token for") as refused:
        language_code(language)
    message = str(refused.value)
    assert "\n" not in message and "--language" in message and "add_expert(" in message
    tag = language_tag(language)
    assert tag not in WHISPER_LANGUAGES and language_tag(tag) == tag


def test_every_name_that_whisper_has_is_known_without_the_library(tmp_path: Path) -> None:
    """Silent: remote code that opens only where langcodes is; and what it says where a table is needed."""
    program = f"""
import sys
sys.modules["langcodes"] = None
sys.path.insert(0, {str(PACKAGE)!r})
import languages
for name, code in languages.TO_LANGUAGE_CODE.items():
    for spelling in (name, name.upper(), f" {{name.title()}} ", f"<|{{name}}|>", name.replace(" ", "_")):
        assert languages.language_code(spelling) == code, spelling
for code in languages.WHISPER_LANGUAGES:
    for spelling in (code, code.upper(), f"<|{{code}}|>", f"{{code}}-XY", f"{{code}}_419"):
        assert languages.language_code(spelling) == languages.language_tag(spelling) == code, spelling
try:
    languages.language_code("pol")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'pol'" in done.stdout and "pip install langcodes" in done.stdout


def test_codes_are_whispers_or_stand_for_it() -> None:
    """Silent: a code of ISO 639 that another language's name or an English word answers for."""
    # Each three-letter code that is taken, by the two-letter one; ISO 639-2/B differs from /T in twenty.
    taken: dict[str, set[str]] = {}
    for letters in product(string.ascii_lowercase, repeat=2):
        code = "".join(letters)
        try:
            taken.setdefault(language_code(code), set()).add(code)
        except ValueError:
            assert code not in WHISPER_LANGUAGES
    odd = {code: spelled for code, spelled in taken.items() if spelled != {code}}
    assert odd == {
        "he": {"he", "iw"},
        "id": {"id", "in"},
        "yi": {"yi", "ji"},
        "jw": {"jw", "jv"},
        "ro": {"ro", "mo"},
        "no": {"no", "nb"},
    }
    bibliographic, terminological = (
        "alb arm baq bur chi cze dut fre geo ger gre ice mac mao may per rum slo tib wel",
        "sqi hye eus mya zho ces nld fra kat deu ell isl mkd mri msa fas ron slk bod cym",
    )
    ours = [language_code(one) for one in bibliographic.split()]
    assert ours == [language_code(one) for one in terminological.split()]
    assert len(set(ours)) == 20


def test_a_vocabulary_that_lacks_a_language_refuses_it() -> None:
    """Silent: Cantonese trained as Mandarin, or with the unknown token, which ends the text, in its prompt."""
    for language in ("yue", "Cantonese", "yue_hant_hk", "<|yue|>"):
        assert language_code(language) == "yue"
        with pytest.raises(ValueError, match=r"--language zh --expert yue"):
            language_code(language, OLDER)
    assert language_code("zh-HK", OLDER) == "zh"
    # A token of its own, which a vocabulary has been given, counts.
    assert language_code("<|sc|>", {*OLDER, "sc"}) == "sc"


def test_refusals_say_what_is_near() -> None:
    """An error that leaves one alone: no name for a code, no hint for a slip, no way to train the language."""
    with pytest.raises(ValueError, match=r"'sc' \(Sardinian\).*--language it --expert sc.*language=\"it\""):
        language_code("sc")
    with pytest.raises(ValueError, match=r"'gsw' \(Swiss German\).*--language de --expert gsw"):
        language_code("gsw")
    for slip, meant in {
        "catlan": "Catalan",
        "jp": "Japanese",
        "norwegain": "Norwegian",
        "ca-medical": "Catalan",
    }.items():
        with pytest.raises(ValueError, match=rf"did you mean {meant} \("):
            language_code(slip)
    for empty in ("", " ", "<||>", "<| |>"):
        for rule in (language_code, language_tag):
            with pytest.raises(ValueError, match=r"got '.*'"):
                rule(empty)


def test_names_of_their_own_stay() -> None:
    """Silent: an expert's own name shortened or translated, so that its clips are transcribed without it."""
    assert [language_tag(name) for name in ("sc", "SC", "sc-IT", "wuu", "srd")] == ["sc", "sc", "sc", "wuu", "srd"]
    assert [language_tag(name) for name in ("sardinian", "ca-medical", "gascon-north")] == [
        "sardinian",
        "ca-medical",
        "gascon-north",
    ]


def test_names_for_people_and_the_hub() -> None:
    """Silent: a card filed under a code that the Hub does not have, a token read with its brackets."""
    assert hub_language("jw") == hub_language("Javanese") == "jv"
    assert hub_language("ca") == "ca" and hub_language("wuu") == "wuu"
    assert language_name("ca_es") == "Catalan" and language_name("ht") == "Haitian Creole"
    assert language_name("sc") == "Sardinian" and language_name("<|el|>") == "Greek"
    assert language_name("gascon-north") == "gascon-north"
    assert token_language("<|ca|>") == token_language("ca") == "ca"


def test_languages_without_spaces() -> None:
    """A WER of a Thai sentence is 0 or 100 %, whatever was recognised."""
    unspaced = ("th", "lo", "km", "my", "zh", "ja", "yue", "bo", "Thai", "zh-TW", "yue_hant_hk", "burmese", "wuu")
    assert all(is_unspaced(language) for language in unspaced)
    assert not any(is_unspaced(language) for language in ("ca", "uk", "vi", "ko", "hi", "jw", "ta", "sc", None))


def test_whispers_own_list_of_languages_without_a_leading_space() -> None:
    """Silent: Khmer trained to begin otherwise than Whisper begins it. The reference is Whisper's word splitting."""
    tokenizer = tiny_tokenizer()
    tokens = tokenizer.encode("ab cd", add_special_tokens=False)
    words = {code: _combine_tokens_into_words(tokenizer, tokens, name)[0] for code, name in WHISPER_LANGUAGES.items()}
    assert {code for code, found in words.items() if len(found) > 2} == NO_LEADING_SPACE_LANGUAGES


def test_files_of_the_original_release() -> None:
    """Silent: an expert listed under a language whose file another name has."""
    for code, name in WHISPER_LANGUAGES.items():
        assert original_language(f"expert.{name}.bin") == code and original_filename(code) == f"expert.{name}.bin"
    assert original_language("expert.castilian.bin") is None and original_language("expert.ca.safetensors") is None


def test_prompts_take_any_name() -> None:
    """Silent: labels of one language under two prompts, or a space in front where Whisper writes none."""
    labels = LabelBuilder(tiny_tokenizer())
    assert labels("hola", language="Catalan") == labels("hola", language="ca_es") == labels("hola", language="ca")
    assert labels("你好", language="cmn_hans_cn") == labels("你好", language="zh")
    with pytest.raises(ValueError, match="--language it --expert sc"):
        labels.prompt("sc")
    with pytest.raises(ValueError, match="--language zh --expert yue"):
        labels.prompt("yue")


def test_a_text_in_a_language_that_the_tokenizer_lacks() -> None:
    """Silent: the unknown token, which is the end of the text, in place of the language."""
    tokenizer = _own_tokenizer()
    with pytest.raises(ValueError, match="--language zh --expert yue"):
        tokenizer("<|yue|> nei hou")
    assert tokenizer("<|ca|> bon dia")["input_ids"][1] == tokenizer.convert_tokens_to_ids("<|ca|>")


def _own_tokenizer() -> DistilWhisperTokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.__class__ = DistilWhisperTokenizer
    return tokenizer


def test_experts_are_named_by_code(whisper_folder: Path) -> None:
    """Silent: an expert "pol" without a language, which Polish never takes."""
    model = with_experts(whisper_folder, "ca")
    for name, code in {"Catalan": "ca", "pol": "pl", "pt-BR": "pt", "nob": "no"}.items():
        with pytest.raises(ValueError, match=rf"add_expert\('{code}'\)"):
            model.add_expert(name)
    with pytest.raises(ValueError, match="--language zh --expert yue"):
        model.add_expert("yue")
    model.add_expert("yue", language="Mandarin")
    model.add_expert("pl", language="pol")
    model.add_expert("legal")
    entries = model.config.language_experts
    assert [entries[name]["language"] for name in ("yue", "pl", "legal")] == ["zh", "pl", None]
    assert entries["pl"]["language_token_id"] == model.generation_config.lang_to_id["<|pl|>"]


def test_the_pipeline_takes_any_name(whisper_folder: Path) -> None:
    """Silent: a row of a data set transcribed without the expert of its language, or not at all."""
    model = with_experts(whisper_folder, "ca")
    extractor = WhisperFeatureExtractor(chunk_length=model.config.max_source_positions // 50)
    pipe = DistilWhisperASRPipeline(model, extractor, tiny_tokenizer(), max_new_tokens=5)
    clip = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    row = {"array": clip, "sampling_rate": 16000}
    expected, plain = pipe({**row, "language": "ca"})["text"], pipe({**row, "language": "ca"}, expert="shared")["text"]
    assert expected != plain
    for spelling in ("ca_es", "cat", "<|ca|>", "CATALAN"):
        assert pipe({**row, "language": spelling})["text"] == expected
        assert pipe([row, row], language=[spelling, "ca-ES"])[0]["text"] == expected
