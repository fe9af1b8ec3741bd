"""The Hub, over real HTTP: what a push sends and leaves alone, what opens by its name, what fails without harm."""

import json
import threading
from pathlib import Path

import pytest
from hub_client import Client
from hub_server import READER, WRITER, Hub
from models import save_whisper
from tiny import tiny_processor

REPO = "user/whisper-tiny-ca"
MODEL = """
import sys, time, numpy as np, torch
time.sleep = lambda seconds: None  # the client's waits between attempts
from models import features, prompts, randomize_expert, with_experts
import distil_whisper_hf
from distil_whisper_hf import DistilWhisperForConditionalGeneration, ExpertFileError
from distil_whisper_hf.publishing.push import push_folder
from distil_whisper_hf.publishing.listing import list_experts
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, WhisperForConditionalGeneration, pipeline
model = with_experts('openai/tiny', 'ca', 'gl', 'ca-medical')
inputs = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(0))
def logits(some, *languages):
    with torch.no_grad():
        return some(inputs[:len(languages)], decoder_input_ids=prompts(*languages)).logits
def same(one, other, *languages):
    # To rounding: files are mapped into memory, where other kernels may take them.
    return bool((logits(one, *languages) - logits(other, *languages)).abs().max() < 1e-5)
"""
TRANSCRIBE = """
import sys, numpy as np
{imports}
from transformers import AutoProcessor, pipeline
transcribe = pipeline('automatic-speech-recognition', model={repo!r}{arguments})
wave = np.sin(np.arange(16000) / 9).astype('float32')
texts = [transcribe(wave, language=code, generate_kwargs={{'max_new_tokens': 6}})['text'] for code in ('ca', 'en')]
result = [texts, type(transcribe.model).__module__, list(transcribe.model.expert_names),
          type(AutoProcessor.from_pretrained({repo!r})).__name__]
"""
IMPORTED = "import distil_whisper_hf"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    sizes = {"max_source_positions": 1500, "encoder_layers": 1, "decoder_layers": 2}
    with Hub(folder / "hub") as hub:
        for seed, name in enumerate(("tiny", "other")):
            base = save_whisper(folder / name, seed=seed, **sizes)
            tiny_processor().save_pretrained(base)
            hub.publish_folder(f"openai/{name}", base)
        hub.base = folder / "tiny"
        yield hub


@pytest.fixture(autouse=True)
def no_faults(hub):
    yield
    hub.faults.clear()
    hub.requests.clear()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(scope="module")
def run(hub, home):
    with Client(hub, home / "writer") as run:
        run(MODEL)
        yield run


@pytest.fixture(scope="module")
def pushed(hub, run):
    """A repository with the expert "ca", by one push; what it took."""
    hub.requests.clear()
    run(f"commit = model.push_expert_to_hub({REPO!r}, 'ca', private=True, commit_message='Catalan')")
    return hub.counted()


def history(hub, repo_id=REPO):
    return list(hub.repos[repo_id].messages.values())


def blobs(hub, repo_id=REPO, revision="main"):
    repo = hub.repos[repo_id]
    return {name: blob.oid for name, blob in repo.commits[repo.refs[revision]].items()}


def test_a_push_is_one_commit_without_the_base(hub, pushed):
    """Silent: the base sent with every language, several commits of which each is incomplete, a public repository."""
    files = hub.files(REPO)
    assert history(hub) == ["initial commit", "Catalan"] and hub.repos[REPO].private
    assert {name for name in files if not name.endswith(".py")} == {
        ".gitattributes", "README.md", "config.json", "expert.ca.safetensors", "generation_config.json",
        "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    config = json.loads(files["config.json"])
    assert list(config["language_experts"]) == ["ca"] and config["base_model_name_or_path"] == "openai/tiny"
    # The tokenizer goes into the commit as base 64.
    small = sum(len(content) for name, content in files.items() if not name.endswith(".safetensors"))
    assert pushed["received"] < len(files["expert.ca.safetensors"]) + 1.5 * small
    assert "openai/tiny" in files["README.md"].decode() and "`ca`" in files["README.md"].decode()


def test_it_opens_by_its_name_in_a_fresh_process(hub, run, pushed, home):
    """Silent: a published expert that only its author can open, or that needs the network once it is in the cache."""
    expected = run(
        "processor = AutoProcessor.from_pretrained('openai/tiny')\n"
        "transcribe = pipeline('automatic-speech-recognition', model=model, tokenizer=processor.tokenizer,"
        " feature_extractor=processor.feature_extractor)\n"
        "wave = np.sin(np.arange(16000) / 9).astype('float32')\n"
        "result = [transcribe(wave, language=code, generate_kwargs={'max_new_tokens': 6})['text']"
        " for code in ('ca', 'en')]"
    )
    code = TRANSCRIBE.format(imports=IMPORTED, repo=REPO, arguments="")
    with Client(hub, home / "reader") as reader:
        texts, module, names, processor = reader(code)
    assert texts == expected and texts[0] != texts[1] and names == ["ca"] and processor == "WhisperProcessor"
    assert module == "distil_whisper_hf.modeling_distil_whisper"
    hub.requests.clear()
    with Client(hub, home / "reader", HF_HUB_OFFLINE="1", HF_TOKEN="") as reader:
        assert reader(code)[0] == expected
    assert not hub.requests


@pytest.mark.slow
def test_it_opens_without_the_package_if_its_code_is_trusted(hub, run, pushed, home):
    """Silent: code in the repository that lacks a file, or that runs before anybody trusts it."""
    with Client(hub, home / "stranger", package=False) as stranger:
        refused = stranger.answer(TRANSCRIBE.format(imports="", repo=REPO, arguments=""))
        assert "trust_remote_code" in refused["message"]
        assert not list((home / "stranger").rglob("modeling_distil_whisper.py*"))
        trusted = TRANSCRIBE.format(imports="", repo=REPO, arguments=", trust_remote_code=True")
        texts, module, names, _ = stranger(trusted)
        assert module.startswith("transformers_modules.") and names == ["ca"]
        assert not stranger("result = 'distil_whisper_hf' in sys.modules")
    assert texts[0] != texts[1]


def test_a_second_language_leaves_the_first_alone(hub, run, pushed):
    """Silent: a push that replaces what was there: the configuration, the card, the other expert."""
    before, first = blobs(hub), hub.repos[REPO].refs["main"]
    hub.requests.clear()
    run(f"model.push_expert_to_hub({REPO!r}, 'gl')")
    after = blobs(hub)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"README.md", "config.json", "expert.gl.safetensors"} and before.keys() < after.keys()
    # Nor is the processor sent again.
    assert hub.counted()["received"] < 100_000 + len(hub.files(REPO)["expert.gl.safetensors"])
    card = hub.files(REPO)["README.md"].decode()
    assert "`ca`, `gl`" in card and "- gl" in card
    found = run(
        f"both = DistilWhisperForConditionalGeneration.from_pretrained({REPO!r})\n"
        f"old = AutoModelForSpeechSeq2Seq.from_pretrained({REPO!r}, revision={first!r})\n"
        "fresh = DistilWhisperForConditionalGeneration.from_pretrained('openai/tiny')\n"
        f"fresh.load_expert(['gl', 'ca'], {REPO!r}, revision='main')\n"
        "result = [both.expert_names, old.expert_names, same(both, model, 'ca', 'gl'), same(old, model, 'ca'),"
        " same(fresh, model, 'ca', 'gl')]"
    )
    assert found == [["ca", "gl"], ["ca"], True, True, True]


def test_a_list_of_experts_costs_no_weights(hub, run, pushed):
    """Silent: a listing that downloads every expert, or that repeats names which cannot be loaded."""
    hub.publish("user/odd", {"sub/expert.gl.safetensors": b"x", "expert.a b.safetensors": b"x", "expert..bin": b"x",
                             "expert.catalan.bin": b"12345", "expert.klingon.bin": b"x"})  # fmt: skip
    hub.requests.clear()
    found = run(f"result = {{name: vars(one) for name, one in list_experts({REPO!r}).items()}}")
    size = len(hub.files(REPO)["expert.ca.safetensors"])
    assert found["ca"] == {
        "name": "ca", "language": "ca", "base_model": "openai/tiny", "training": {}, "size": size,
        "filename": "expert.ca.safetensors",
    }  # fmt: skip
    assert all(request.sent <= 100_001 for request in hub.requests)
    odd = run("result = {name: one.size for name, one in list_experts('user/odd').items()}")
    assert odd == {"ca": 5}


def test_two_writers_at_once_both_survive(hub, run, home):
    """Silent: the slower of two pushes taking the faster one's expert out of the configuration."""
    hub.create("user/both")
    with Client(hub, home / "second") as second:
        second(MODEL)
        hub.meeting = threading.Barrier(2)
        second.send("model.push_expert_to_hub('user/both', 'ca')")
        run("model.push_expert_to_hub('user/both', 'gl')")
        assert "error" not in second.receive()
    assert [request.status for request in hub.requests if "/commit/" in request.path].count(412) == 1
    files = hub.files("user/both")
    assert {"expert.ca.safetensors", "expert.gl.safetensors"} < files.keys() and len(history(hub, "user/both")) == 3
    assert set(json.loads(files["config.json"])["language_experts"]) == {"ca", "gl"}
    assert "`ca`" in files["README.md"].decode() and "`gl`" in files["README.md"].decode()


def failed(hub, run, repo_id, code=None):
    """The message of a push that fails, having left the repository as it was."""
    before, commits = blobs(hub, repo_id), len(history(hub, repo_id))
    answer = run.answer(code or f"model.push_expert_to_hub({repo_id!r}, 'ca-medical')")
    assert answer["error"] == "HubPushError", answer
    assert blobs(hub, repo_id) == before and len(history(hub, repo_id)) == commits
    assert WRITER not in answer["traceback"]
    return answer["message"]


@pytest.mark.parametrize(
    ("method", "pattern", "how", "said"),
    [
        ("PUT", "^/lfs/", {"status": 403}, "`create_pr=True`"),
        ("PUT", "^/lfs/", {"cut_after": 1000, "times": 99}, "Call it again"),
        ("POST", "/preupload/", {"status": 500, "times": 99}, "Call it again"),
        ("POST", "/commit/", {"status": 500, "times": 99}, "was not changed"),
        ("POST", "/commit/", {"status": 409, "times": 99}, "was not changed"),
        ("POST", "/commit/", {"cut_after": 10, "times": 99}, "is not known"),
    ],
)
def test_a_push_that_fails_changes_nothing(hub, run, pushed, method, pattern, how, said):
    """Silent: half a push left behind, or a message that does not say what to do."""
    hub.fail(method, pattern, **how)
    message = failed(hub, run, REPO)
    assert said in message and REPO in message


def test_a_push_goes_on_where_it_was_interrupted(hub, run, pushed):
    """Silent: hundreds of megabytes sent again because the last small request failed; a cut upload taken for whole."""
    hub.create("user/again")
    hub.fail("PUT", "^/lfs/", cut_after=1000)
    hub.fail("POST", "/commit/", status=500)
    failed(hub, run, "user/again", "randomize_expert(model, 'gl', 55)\nmodel.push_expert_to_hub('user/again', 'gl')")
    hub.requests.clear()
    run("model.push_expert_to_hub('user/again', 'gl')")
    assert not [request for request in hub.requests if request.method == "PUT"]
    assert run(
        "again = DistilWhisperForConditionalGeneration.from_pretrained('user/again')\nresult = same(again, model, 'gl')"
    )


def test_a_lost_answer_makes_no_second_commit(hub, run):
    """Silent: the same push committed twice, since the answer to the first did not arrive."""
    hub.create("user/lost")
    hub.fail("POST", "/commit/", cut_after=0, late=True)
    run("model.push_expert_to_hub('user/lost', 'ca')")
    assert len(history(hub, "user/lost")) == 2


def test_tokens_are_told_apart_and_never_shown(hub, run, pushed, home, tmp_path):
    """Silent: a token in an exception, in a published file, or sent to the store of large files."""
    push = f"model.push_expert_to_hub({REPO!r}, 'gl', token={{!r}})"
    assert "rights" in failed(hub, run, REPO, push.format(READER))
    assert "log in" in failed(hub, run, REPO, push.format("hf_" + "x" * 30)).lower()
    # The HTTP library names a header that it cannot send, with its value.
    broken = "hf_" + "q" * 30 + "\n"
    for code in (push.format(broken), f"list_experts({REPO!r}, token={broken!r})"):
        answer = run.answer(code)
        assert answer["error"] == "ValueError" and broken.strip() not in answer["traceback"]
    shown = run(
        "from distil_whisper_hf.secret_tokens import without_tokens\n"
        f"result = without_tokens('Bearer ' + repr({broken!r}) + ' other-secret', [{broken!r}, 'other-secret'])"
    )
    assert shown == "Bearer '[token]' [token]"
    assert not any(request.token for request in hub.requests if request.path.startswith("/lfs/"))
    for secret in (WRITER, "hf_" + "z" * 30):
        answer = run.answer(
            f"model.config.language_experts['gl']['training'] = {{'hub_token': {secret!r}}}\n"
            "model.push_expert_to_hub('user/leak', 'gl')"
        )
        assert answer["error"] == "ValueError"
        assert "found one in" in answer["message"] and secret not in answer["traceback"].split("ValueError")[-1]
    run("model.config.language_experts['gl']['training'] = {}")
    assert "user/leak" not in hub.repos
    assert all(WRITER.encode() not in content for content in hub.files(REPO).values())


def test_branches_and_pull_requests_leave_main_alone(hub, run, pushed):
    """Silent: a proposal that is live at once; a pull request that asks for the right to write."""
    before = blobs(hub)
    run(f"model.push_expert_to_hub({REPO!r}, 'ca-medical', revision='next')")
    url = run(f"result = model.push_expert_to_hub({REPO!r}, 'ca-medical', create_pr=True, token={READER!r}).pr_url")
    assert url.endswith(f"{REPO}/discussions/1") and blobs(hub) == before
    for revision in ("next", "refs/pr/1"):
        assert "expert.ca-medical.safetensors" in blobs(hub, revision=revision)
        assert run(f"result = 'ca-medical' in list_experts({REPO!r}, revision={revision!r})")


def test_a_whole_model_is_pushed_with_its_base(hub, run):
    """Silent: an older file of an expert winning over the newer one inside; stock Whisper not opening the base."""
    run("randomize_expert(model, 'ca', 1)\nmodel.push_expert_to_hub('user/whole', 'ca')")
    run("randomize_expert(model, 'ca', 2)\nmodel.push_to_hub('user/whole', max_shard_size='6MB')")
    assert len(history(hub, "user/whole")) == 3
    names = blobs(hub, "user/whole")
    assert "model.safetensors.index.json" in names and not any(name.startswith("expert.") for name in names)
    found = run(
        "again = DistilWhisperForConditionalGeneration.from_pretrained('user/whole')\n"
        "stock = WhisperForConditionalGeneration.from_pretrained('user/whole')\n"
        "fresh = DistilWhisperForConditionalGeneration.from_pretrained('openai/tiny')\n"
        "fresh.load_expert('gl', 'user/whole')\n"
        "result = [same(again, model, 'ca', 'gl'), same(stock, model, 'en'), same(fresh, model, 'gl'),"
        " {name: [one.size, one.filename] for name, one in list_experts('user/whole').items()}]"
    )
    size = sum(4 * n for n in run("result = [p.numel() for k, p in model.named_parameters() if '.gl.' in k]"))
    assert found[:3] == [True, True, True]
    assert found[3] == {name: [size, None] for name in ("ca", "ca-medical", "gl")}
    # Fewer shards than before: none of the old ones stays. Then one expert beside the rest.
    run(
        "model.save_pretrained('whole', push_to_hub=True, repo_id='user/whole', commit_message='One file')\n"
        "randomize_expert(model, 'ca', 3)\nmodel.push_expert_to_hub('user/whole', 'ca')"
    )
    names = {name for name in blobs(hub, "user/whole") if name.endswith((".safetensors", ".index.json"))}
    assert names == {"model.safetensors", "expert.ca.safetensors"} and "One file" in history(hub, "user/whole")
    assert run(
        "again = DistilWhisperForConditionalGeneration.from_pretrained('user/whole')\n"
        "result = same(again, model, 'ca', 'gl')"
    )


def test_folders_are_pushed_by_command(hub, run, home, tmp_path):
    """Silent: pickles and optimiser states of a training folder sent along; a failure that exits with 0."""
    (tmp_path / "training_args.bin").write_bytes(b"x")
    (tmp_path / "optimizer.pt").write_bytes(b"x")
    run(f"from distil_whisper_hf import cli\nmodel.save_expert('gl', {str(tmp_path)!r})")
    push = f"result = cli.main(['push', {str(tmp_path)!r}, 'user/folder', *{{!r}}])"
    assert run(push.format(["--base", "openai/tiny", "--private", "--message", "By command"])) == 0
    assert hub.repos["user/folder"].private and history(hub, "user/folder")[1:] == ["By command"]
    names = blobs(hub, "user/folder")
    assert "expert.gl.safetensors" in names and not any(name.endswith((".bin", ".pt", "SUMS")) for name in names)
    assert run(push.format([])) == 2
    hub.fail("POST", "/commit/", status=500)
    run("randomize_expert(model, 'gl', 9)\n" + f"model.save_expert('gl', {str(tmp_path)!r})")
    assert run(push.format(["--base", "openai/tiny"])) == 1 and len(history(hub, "user/folder")) == 2


TRAINER = """
from speech_rows import Rows
from tiny import tiny_processor
from distil_whisper_hf.training.arguments import DistilWhisperTrainingArguments
from distil_whisper_hf.training.trainer import DistilWhisperTrainer
student = DistilWhisperForConditionalGeneration.from_pretrained('openai/short')
for name in ('ca', 'gl', 'es'):
    student.add_expert(name)
def trainer(**changes):
    args = DistilWhisperTrainingArguments(**{
        'output_dir': 'trained', 'max_steps': 2, 'per_device_train_batch_size': 2, 'use_cpu': True, 'save_steps': 1,
        'distillation': 'none', 'disable_tqdm': True, 'push_to_hub': True, 'hub_model_id': 'user/trained', **changes})
    return DistilWhisperTrainer(student, args, processing_class=tiny_processor(), train_dataset=Rows(4))
"""


def test_the_trainer_pushes_its_experts_and_nothing_else(hub, run, tmp_path):
    """Silent: pickled arguments and optimiser states published; a lost connection that ends a training."""
    hub.publish_folder("openai/short", save_whisper(tmp_path))
    run(TRAINER)
    # The push at the first step fails; the training and the next one go on.
    hub.fail("POST", "/api/models/user/trained/commit/", status=500)
    run("one = trainer()\none.train()\none.push_to_hub(results={'ca': {'limits': ['Two steps.']}})")
    assert history(hub, "user/trained")[1:] == ["Training in progress, step 2", "End of training"]
    names = set(blobs(hub, "user/trained"))
    assert "expert.ca.safetensors" in names and not any(name.endswith((".bin", ".pt", ".pth")) for name in names)
    card = hub.files("user/trained")["README.md"].decode()
    assert "Two steps." in card and "| learning_rate |" in card
    assert run(
        "again = DistilWhisperForConditionalGeneration.from_pretrained('user/trained', experts=['ca'])\n"
        "result = torch.equal(again.model.decoder.layers[0].language_experts['ca'].fc1.weight,"
        " student.model.decoder.layers[0].language_experts['ca'].fc1.weight)"
    )
    assert "hub_strategy" in run.answer("trainer(hub_strategy='checkpoint')")["message"]
    run("student.config.base_model_name_or_path = 'not/there/at/all'")
    assert "that others can open" in run.answer("trainer()")["message"]


def test_the_trainer_keeps_its_token_to_itself(hub, run, home, tmp_path):
    """Silent: a token in pickled arguments, in a published card, or in what is said of a Hub that fails."""
    hub.publish_folder("openai/short", save_whisper(tmp_path))
    run(TRAINER)
    named = f"output_dir='kept', hub_model_id='user/kept', hub_token={WRITER!r}"
    hub.fail("POST", "/api/repos/create", status=500, times=99)
    answer = run.answer(f"trainer({named})")
    assert "error" in answer and WRITER not in answer["message"] + answer["traceback"]
    hub.faults.clear()
    hub.fail("POST", "/commit/", status=500, times=99)
    answer = run.answer(f"one = trainer({named})\none.train()\none.push_to_hub()")
    assert answer["error"] == "HubPushError" and WRITER not in answer["message"] + answer["traceback"]
    hub.faults.clear()
    run("one.push_to_hub()\nresult = one.args.hub_token")
    written = [path.read_bytes() for path in (home / "writer" / "kept").rglob("*") if path.is_file()]
    assert any(b"hub_token" in content for content in written)
    assert all(WRITER.encode() not in content for content in [*written, *hub.files("user/kept").values()])


def test_experts_of_another_base_are_refused_before_they_are_sent(hub, run, pushed):
    """Silent: a repository whose configuration names one base and whose experts need another."""
    hub.requests.clear()
    other = "other = with_experts('openai/other', 'es')\n"
    message = failed(hub, run, REPO, f"{other}other.push_expert_to_hub({REPO!r}, 'es')")
    assert "openai/tiny" in message and "another repository" in message
    message = failed(hub, run, REPO, f"other.push_expert_to_hub({REPO!r}, 'es', base_model='openai/tiny')")
    assert "fingerprint" in message
    assert not [request for request in hub.requests if request.method == "PUT"]
    answer = run.answer(f"local = with_experts({str(hub.base)!r}, 'es')\nlocal.push_expert_to_hub('user/local', 'es')")
    assert answer["error"] == "ValueError" and "base_model=" in answer["message"] and "user/local" not in hub.repos
    run("local.push_expert_to_hub('user/local', 'es', base_model='openai/tiny')")
    assert str(hub.base).encode() not in b"".join(hub.files("user/local").values())


def test_results_and_a_written_card_survive_other_pushes(hub, run):
    """Silent: the figures of one language lost with the next; somebody's own text overwritten."""
    row = {"system": "expert", "dataset": "Clips", "split": "test", "domain": "in", "language": "ca", "metric": "wer",
           "value": 12.5, "interval": [11, 14], "command": "distil-whisper evaluate", "hub_dataset": "user/clips",
           "task_id": "ca"}  # fmt: skip
    run(f"model.push_expert_to_hub('user/card', 'ca', results={{'rows': [{row!r}], 'license': 'cc-by-4.0'}})")
    run("model.push_expert_to_hub('user/card', 'gl')")
    files = hub.files("user/card")
    assert "12.5 [11, 14]" in files["README.md"].decode() and "license: cc-by-4.0" in files["README.md"].decode()
    assert b"value: 12.5" in files[".eval_results/ca.yaml"]
    hub.publish("user/card", {"README.md": b"---\nlicense: mit\n---\nMy own words.\n"})
    run("model.push_expert_to_hub('user/card', 'ca-medical')")
    files = hub.files("user/card")
    assert files["README.md"].endswith(b"My own words.\n") and "expert.ca-medical.safetensors" in files


def test_downloads_are_checked_and_resumed(hub, run, pushed):
    """Silent: half an expert loaded after a lost connection; a damaged one taken for a good one."""
    content = hub.files(REPO)["expert.ca.safetensors"]
    hub.publish("user/copies", {"expert.ca.safetensors": content + b"", "expert.gl.safetensors": content[:-9]})
    hub.fail("GET", "^/lfs/", cut_after=100_000)
    run(
        "randomize_expert(model, 'ca', 0)\n"
        "fresh = DistilWhisperForConditionalGeneration.from_pretrained('openai/tiny')\n"
        "fresh.load_expert('ca', 'user/copies', force_download=True)"
    )
    for code, error in (
        ("fresh.load_expert('gl', 'user/copies')", "ExpertFileError"),
        ("fresh.load_expert('uk', 'user/copies')", "MissingExpertError"),
        ("fresh.load_expert('gl', 'user/copies', revision='nowhere')", "MissingExpertError"),
        ("fresh.load_expert('gl', 'user/nothing')", "MissingExpertError"),
    ):
        assert run.answer(code)["error"] == error
    assert run("result = fresh.expert_names") == ["ca"]


def test_a_repository_names_no_files_outside_and_no_pickles(hub, run, home):
    """Silent: a path in a configuration that leads out of the cache; a pickle read because a repository names it."""
    config = json.loads(hub.files(REPO)["config.json"])
    evil = {
        "user/names": config | {"language_experts": {"../../evil": {}}},
        "user/pickle": config | {"language_experts": {}, "base_model_name_or_path": "user/pickled"},
    }
    for name, content in evil.items():
        hub.publish(name, {"config.json": json.dumps(content).encode()})
    hub.publish("user/pickled", {"config.json": hub.files("openai/tiny")["config.json"], "pytorch_model.bin": b"x"})
    open_model = "DistilWhisperForConditionalGeneration.from_pretrained({!r})"
    assert "Expected an expert name" in run.answer(open_model.format("user/names"))["message"]
    refused = run.answer(open_model.format("user/pickle"))
    assert refused["error"] == "MissingExpertError" and "weights of a Whisper in 'user/pickled'" in refused["message"]
    # The client notes with empty files what is not there.
    assert not [path for path in home.rglob("pytorch_model.bin") if ".no_exist" not in path.parts]
    assert not list(home.rglob("*evil*"))
