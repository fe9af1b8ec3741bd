"""What is taken out of texts, and that nothing of it is left in what a run writes and says."""

import pytest
from hub_client import Client
from hub_server import READER, WRITER, Hub
from models import save_whisper
from programs import TINY, short_processor, speech_folder

from distil_whisper_hf.secret_tokens import MASK, given_tokens, without_given_tokens, without_tokens

LENT = "hf_jwt_eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl-_"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"Bearer {WRITER}, once more {WRITER}", f"Bearer {MASK}, once more {MASK}"),
        (f"{LENT} expired", f"{MASK} expired"),
        ("https://user:pass@host/x.git and https://token@host", f"https://{MASK}@host/x.git and https://{MASK}@host"),
        ("runs/hf_whisper_small_finetuned to me@example.org", "runs/hf_whisper_small_finetuned to me@example.org"),
        ("unlike s3cret\\n any", f"unlike {MASK}\\n any"),
    ],
)
def test_whatever_looks_like_a_token_or_is_known_as_one_is_masked(text, kept):
    assert without_tokens(text, ["s3cret"]) == kept


@pytest.mark.parametrize("flag", [["--hub_token", "s3cret"], ["--hub-token=s3cret"], ["--token", "s3cret"]])
def test_command_lines_are_kept_without_what_was_given_as_a_token(flag):
    words = ["--model", "base", *flag, "--run_name", "s3cret-run"]
    assert given_tokens(words) == {"s3cret"}
    assert "s3cret" not in " ".join(without_given_tokens(words))


RUN = """
import contextlib, io, json
from distil_whisper_hf.cli import main
def said(words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = main(words)
    return status, out.getvalue()
"""


@pytest.mark.slow
def test_no_token_is_written_or_said(tmp_path):
    """Silent: a token in a file that is pushed or shown, in the message of a push that failed, or in a log."""
    speech, secret = speech_folder(tmp_path / "speech", "ca"), WRITER.removeprefix("hf_")
    recipes = {"list.json": {"hub_token": [WRITER]}, "line.json": {"hub_token": f"{WRITER}\n"}}
    with Hub(tmp_path / "hub") as hub:
        base = save_whisper(tmp_path / "base", max_source_positions=100)
        short_processor().save_pretrained(base)
        hub.publish_folder("openai/short", base)
        words = ["train", "--model", "openai/short", "--data", str(speech), "--language", "ca", "--where", "suspect=0"]
        words += ["--distillation", "none", "--test", "trained", *TINY, "--save_strategy", "steps", "--save_steps", "2"]
        words += ["--push_to_hub", "true", "--hub_strategy", "every_save", "--hub_model_id", "user/pushed"]
        given = ["--hub_token", WRITER, "--run_name", f"https://me:{WRITER}@host", "--output_dir", "run", "--resume"]
        with Client(hub, tmp_path / "home", HF_TOKEN=READER) as run:
            run(RUN)
            hub.fail("POST", "/commit/", status=403, times=9)
            status, text = run(f"result = said({[*words, *given]!r})")
            assert status == 2 and "Training goes on" in text and secret not in text, text
            hub.faults.clear()
            status, text = run(f"result = said({[*words, *given]!r})")
            assert status == 0 and secret not in text, text
            for name, values in recipes.items():
                run(f"with open({name!r}, 'w') as file: json.dump({values!r}, file)")
                status, text = run(f"result = said({['train', name, *words[1:], '--output_dir', 'recipe']!r})")
                assert status == 2 and "token" in text and secret not in text, text
        assert secret not in run.errors
        assert "expert.ca.safetensors" in hub.files("user/pushed")
        assert secret.encode() not in b"".join(hub.files("user/pushed").values())
    written = [path for path in (tmp_path / "home" / "run").rglob("*") if path.is_file()]
    assert {"training_args.bin", "run.json", "scores.json", "trainer_state.json"} <= {path.name for path in written}
    assert [str(path) for path in written if secret.encode() in path.read_bytes()] == []
