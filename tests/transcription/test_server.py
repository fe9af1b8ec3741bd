"""The HTTP server against OpenAI's own client, and against clients that it must survive."""

import io
import json
import os
import runpy
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from models import with_experts
from speech_files import encoded

pytest.importorskip("fastapi")
pytest.importorskip("multipart")
uvicorn = pytest.importorskip("uvicorn")

from distil_whisper_hf.audio_input import httpx  # noqa: E402
from distil_whisper_hf.transcription.engine import ClosedError  # noqa: E402
from distil_whisper_hf.transcription.recordings import Recording  # noqa: E402
from distil_whisper_hf.transcription.server import Server, ServerSettings  # noqa: E402

KEY, ADMIN = "sk-open", "sk-admin"


def audio(seconds, seed=0):
    noise = np.random.default_rng(seed).standard_normal(round(16000 * seconds)).astype(np.float32)
    return encoded((0.2 * noise).clip(-1, 1))


class Running:
    """A server in a thread of its own, at a free port."""

    def __init__(self, model, processor, settings, **options):
        self.server = Server(model, processor, settings, **options)
        self.uvicorn = uvicorn.Server(uvicorn.Config(self.server.app, port=0, log_level="error"))
        self.thread = threading.Thread(target=self.uvicorn.run, daemon=True)
        self.thread.start()
        while not self.uvicorn.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.uvicorn.servers[0].sockets[0].getsockname()[1]}"

    def stop(self):
        self.uvicorn.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def model(short_folder):
    return with_experts(short_folder, "ca", "gl")


@pytest.fixture(scope="module")
def running(model, processor):
    settings = ServerSettings(api_key=KEY, admin_key=ADMIN, most_bytes=200_000, most_seconds=5.0)
    found = Running(model, processor, settings, batch_size=3)
    yield found
    found.stop()


def post(running, content=None, *, key=KEY, path="transcriptions", **fields):
    fields = {"model": "base", "language": "ca", "temperature": "0.1", **fields}
    return httpx.post(
        f"{running.url}/v1/audio/{path}",
        headers={"Authorization": f"Bearer {key}"},
        data={name: value for name, value in fields.items() if value is not None},
        files={"file": ("a.wav", audio(0.7) if content is None else content)},
        timeout=60,
    )


def test_openais_client_gets_every_format(running):
    """Silent: a schema that only our own tests read."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0)
    assert [one.id for one in client.models.list()] == ["base", "base:ca", "base:gl"]
    assert client.models.retrieve("base:ca").owned_by == "distil_whisper_hf"

    def ask(**options):
        return client.audio.transcriptions.create(
            **{"file": ("a.wav", audio(0.7)), "model": "base", "language": "ca", "temperature": 0.1, **options}
        )

    text = ask().text
    assert text and ask(response_format="text").strip() == text
    assert "-->" in ask(response_format="srt") and ask(response_format="vtt").startswith("WEBVTT")
    both = ask(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert both.text == text and both.duration == pytest.approx(0.7) and both.language == "catalan"
    assert both.segments[0].avg_logprob < 0 and both.words and both.words[0].end >= both.words[0].start
    assert both.expert == "ca" and 0 <= both.open_gates["encoder"] <= 1
    assert ask(response_format="verbose_json", timestamp_granularities=["word"]).segments is None
    assert ask(model="base:gl", response_format="verbose_json").expert == "gl"
    assert ask(model="whisper-1").text == text
    events = list(ask(stream=True, file=("a.wav", audio(2.3))))
    assert [one.type for one in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1) and len(events) > 1
    assert events[-1].type == "transcript.text.done"
    assert "".join(one.delta for one in events[:-1]).strip() == events[-1].text
    english = client.audio.translations.create(file=("a.wav", audio(0.7)), model="base", response_format="verbose_json")
    assert english.task == "translate" and english.expert is None
    for error, options in (
        (openai.BadRequestError, {"language": "klingon"}),
        (openai.NotFoundError, {"model": "base:xx"}),
        (openai.BadRequestError, {"file": ("a.wav", b"no sound")}),
    ):
        with pytest.raises(error) as raised:
            ask(**options)
        assert raised.value.body["message"].startswith("Expected") and "Traceback" not in str(raised.value)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0).models.list()


REFUSED = {
    "no key": ({"key": "x"}, 401, None),
    "no file": ({"content": "text"}, 400, "file"),
    "an address": ({"url": "http://example.org/a.wav"}, 400, "url"),
    "format": ({"response_format": "doc"}, 400, "response_format"),
    "granularity": ({"response_format": "verbose_json", "timestamp_granularities[]": "letter"}, 400, "timestamp_"),
    "granularity without verbose_json": ({"timestamp_granularities[]": "word"}, 400, "timestamp_"),
    "temperature": ({"temperature": "hot"}, 400, "temperature"),
    "stream": ({"stream": "perhaps"}, 400, "stream"),
    "no model": ({"model": None}, 400, "model"),
    "another model": ({"model": "gpt-4o-transcribe"}, 404, "model"),
    "an expert that translates": ({"path": "translations", "model": "base:ca", "language": None}, 400, "model"),
    "language of a translation": ({"path": "translations"}, 400, "language"),
    "too long": ({"content": audio(5.5)}, 413, "file"),
    "too large": ({"content": b"0" * 300_000}, 413, "file"),
    "nothing in it": ({"content": b""}, 400, "file"),
    "cut short": ({"content": audio(1.0)[:9000]}, 400, "file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_as_openai_says_it(running, case):
    """Silent: a traceback, a 500, or a mistake that is passed over."""
    options, status, param = REFUSED[case]
    if case == "no file":
        answer = httpx.post(f"{running.url}/v1/audio/transcriptions", data={"model": "base", "file": "a.wav"},
                            headers={"Authorization": f"Bearer {KEY}"})  # fmt: skip
    else:
        answer = post(running, **options)
    error = answer.json()["error"]
    assert answer.status_code == status and (param is None or error["param"].startswith(param))
    assert set(error) == {"message", "type", "param", "code"} and error["message"].startswith("Expected")
    assert "File " not in answer.text and KEY not in answer.text


def test_requests_of_all_languages_share_batches_and_stay_apart(running):
    """Silent: answers mixed up between clients, or one request at a time."""
    # An answer is known by its expert and the length of its audio.
    asked = [(language, seed) for seed in range(3) for language in ("ca", "en", "gl")]

    def ask(one):
        language, seed = one
        content = audio(0.6 + 0.1 * seed, seed)
        found = post(running, content, language=language, temperature="0.0001", response_format="verbose_json").json()
        return found["expert"], found["duration"], found["text"]

    one_by_one = [ask(one) for one in asked]
    assert len(set(one_by_one)) == 9
    before = batches(running)
    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(ask, asked)) == one_by_one
    assert batches(running) - before < 9


def test_the_load_program_counts(running, tmp_path, monkeypatch, capsys):
    """Silent: a benchmark that finds nothing wrong because it compares nothing."""
    program = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "serving.py"))
    for seed in range(2):
        (tmp_path / f"{seed}.wav").write_bytes(audio(0.5, seed))
    monkeypatch.setenv("DISTIL_WHISPER_API_KEY", KEY)
    words = ["--url", running.url, "--clips", str(tmp_path / "0.wav"), str(tmp_path / "1.wav"), "--requests", "4"]
    found = program["main"]([*words, "--process", str(os.getpid())])
    assert (found["lost"], found["failed"], found["different"]) == (0, 0, 0) and "4 x 200" in capsys.readouterr().out
    (tmp_path / "1.wav").write_bytes(b"no sound")
    assert program["main"](words)["failed"] == 2


def batches(running):
    text = httpx.get(f"{running.url}/metrics").text
    return float(
        next(line for line in text.splitlines() if line.startswith("distil_whisper_batch_windows_count")).split()[1]
    )


def test_health_and_metrics(running):
    """Silent: a monitor that sees nothing, or that needs a key that it does not have."""
    assert httpx.get(f"{running.url}/health").json() == {"status": "ok"}
    post(running)
    post(running, model="no")
    text = httpx.get(f"{running.url}/metrics").text
    for name in ("requests_total", "errors_total", "audio_seconds_total", "queue_recordings", "latency_seconds_bucket"):
        assert f"distil_whisper_{name}" in text
    assert 'path="/v1/audio/transcriptions",status="404"' in text and KEY not in text
    missing = httpx.get(f"{running.url}/nothing")
    assert missing.status_code == 404 and missing.json()["error"]["message"]


def test_experts_come_and_go_while_it_serves(running, model, tmp_path):
    """Silent: a new language that needs a restart, or one that anybody may put in."""
    folder = tmp_path / "experts"
    model.save_expert("gl", folder)
    url = f"{running.url}/admin/experts"
    admin = {"Authorization": f"Bearer {ADMIN}"}
    for key in (None, KEY):
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        assert httpx.post(url, json={"source": str(folder)}, headers=headers).status_code == 401
    assert httpx.delete(f"{url}/gl", headers=admin).json() == {"experts": ["ca"]}
    assert post(running, model="base:gl").status_code == 404
    assert httpx.delete(f"{url}/gl", headers=admin).status_code == 404
    for wrong in ({"source": str(tmp_path / "none")}, {"source": 3}, ["x"], {"source": str(folder), "names": ["xx"]}):
        answer = httpx.post(url, json=wrong, headers=admin)
        assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert httpx.post(url, json={"source": str(folder)}, headers=admin).json() == {"experts": ["ca", "gl"]}
    assert post(running, model="base:gl").status_code == 200


@pytest.fixture
def held(model, processor):
    """A server whose decoder waits, with room for two."""
    found = Running(model, processor, ServerSettings(timeout=3.0, stop_seconds=20.0), batch_size=2, most_waiting=2)
    gate, decode = threading.Event(), found.server.engine.decoder.decode

    def wait(*arguments):
        gate.wait(30)
        return decode(*arguments)

    found.server.engine.decoder.decode = wait
    found.gate = gate
    yield found
    gate.set()
    if found.thread.is_alive():
        found.stop()


def until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_a_full_queue_a_client_that_leaves_and_a_slow_answer(held):
    """Silent: memory that grows with clients, places that are never freed, and clients that wait for ever."""
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(post, held) for _ in range(2)]
        until(lambda: held.server.engine.jobs == 2)
        full = post(held)
        assert full.status_code == 429 and int(full.headers["Retry-After"]) >= 1
        assert full.json()["error"]["type"] == "rate_limit_error"
        # Nothing is decoded: both time out, and their places are free.
        assert [one.result().status_code for one in waiting] == [504, 504]
    assert held.server.engine.jobs == 0
    body = audio(0.7)
    head = (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        "Content-Length: {}\r\n\r\n"
    )
    form = (
        b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nbase\r\n--B\r\nContent-Disposition: form-data; '
        b'name="file"; filename="a.wav"\r\n\r\n' + body + b"\r\n--B--\r\n"
    )
    host, _, port = held.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.format(len(form)).encode() + form)
        until(lambda: held.server.engine.jobs == 1)
    until(lambda: held.server.engine.jobs == 0)


def test_stopping_finishes_what_runs(held):
    """Silent: a restart that costs the answers of those who were in work."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(post, held)
        until(lambda: held.server.engine.jobs == 1)
        held.uvicorn.should_exit = True
        time.sleep(0.2)
        held.gate.set()
        assert running.result().status_code == 200
    held.thread.join(20)
    assert not held.thread.is_alive() and not held.server.engine.is_alive


def test_who_waits_at_the_end_is_told_why(held):
    """Silent: a server that is stopped in the middle, whose clients hear nothing, or are told that they left."""
    engine = held.server.engine
    job = engine.submit(Recording(np.zeros(16000, np.float32)))
    until(lambda: engine.jobs == 1)
    assert not engine.close(0.1)
    with pytest.raises(ClosedError, match="The server was stopped"):
        job.future.result(1)
    with pytest.raises(ClosedError, match="this one is stopping"):
        engine.submit(Recording(np.zeros(16000, np.float32)))
    held.gate.set()
    engine._thread.join(20)
    assert not engine._thread.is_alive() and engine.jobs == 0


def test_a_fault_in_a_batch_is_no_end(model, processor, caplog):
    """Silent: a server that lives and answers nobody, after one bad batch."""
    running = Running(model, processor, ServerSettings())
    decode = running.server.engine.decoder.decode

    def fail(*arguments):
        running.server.engine.decoder.decode = decode
        raise RuntimeError("secret detail")

    running.server.engine.decoder.decode = fail
    answer = post(running)
    assert answer.status_code == 500 and "secret" not in answer.text and "secret detail" in caplog.text
    assert post(running).status_code == 200
    running.stop()


def test_an_answer_in_pieces_says_what_went_wrong(held):
    """Silent: a stream that only stops."""
    with httpx.stream(
        "POST", f"{held.url}/v1/audio/transcriptions", data={"model": "base", "stream": "true"},
        files={"file": ("a.wav", io.BytesIO(audio(0.7)))}, timeout=30,
    ) as answer:  # fmt: skip
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert answer.status_code == 200 and events[-1]["error"]["code"] == "timeout"
    until(lambda: held.server.engine.jobs == 0)
