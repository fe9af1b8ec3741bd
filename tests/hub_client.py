"""A client of the test Hub: a process of its own, since huggingface_hub reads its settings once, at its import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hub_server import Hub

TESTS = Path(__file__).parent
# Runs what comes in, a line of JSON each, and answers with its `result`, or the error as it would be printed.
LOOP = """
import json, sys, traceback
answers = sys.stdout
sys.stdout = sys.stderr
names = {}
for line in sys.stdin:
    names['result'] = None
    try:
        exec(compile(json.loads(line), '<sent>', 'exec'), names)
        answer = {'result': names['result']}
    except BaseException as error:
        answer = {'error': type(error).__name__, 'message': str(error), 'traceback': traceback.format_exc()}
    answers.write(json.dumps(answer) + '\\n')
    answers.flush()
"""


class Client:
    """`with Client(hub, home) as run:` and then `run(code)`: what `code` assigns to `result`."""

    def __init__(self, hub: Hub, home: Path, *, package: bool = True, **environment: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        env |= hub.client_environment(home) | {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", **environment}
        env["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)]) if package else ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=env, cwd=home,
        )  # fmt: skip

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        # Its warnings are read only when it has ended: they are few.
        self.errors = self.process.communicate(timeout=60)[1]

    def answer(self, code: str) -> dict[str, Any]:
        self.send(code)
        return self.receive()

    def send(self, code: str) -> None:
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()[-3000:]
        return json.loads(line)

    def __call__(self, code: str) -> Any:
        answer = self.answer(code)
        assert "error" not in answer, answer["traceback"]
        return answer["result"]
