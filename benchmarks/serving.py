"""Load on a running `distil-whisper serve`: requests of several languages, one by one and side by side.

    distil-whisper serve --model openai/whisper-base --experts model_cards/whisper-base-el-pl-ru &
    python benchmarks/serving.py --url http://localhost:8000 --clips examples/audio/*.ogg --requests 64 --clients 16

Says how many answers were lost, failed or differ from those that came one by one, and how long both ways took. With
--process ID of the server also how its memory grew (Linux).
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distil_whisper_hf.audio_input import httpx


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run the program; returns what it printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8000", help="of the server")
    parser.add_argument("--clips", nargs="+", type=Path, required=True, help="audio of different languages")
    parser.add_argument("--requests", type=int, default=64, help="side by side")
    parser.add_argument("--clients", type=int, default=16, help="at once")
    parser.add_argument("--process", type=int, help="id of the server's process")
    args = parser.parse_args(arguments)
    contents = [path.read_bytes() for path in args.clips]
    key = os.environ.get("DISTIL_WHISPER_API_KEY", "")
    client = httpx.Client(
        base_url=args.url, timeout=600, headers={"Authorization": f"Bearer {key}"} if key else {},
        limits=httpx.Limits(max_connections=args.clients),
    )  # fmt: skip

    def ask(number: int) -> tuple[int, str]:
        place = number % len(contents)
        while True:
            answer = client.post(
                "/v1/audio/transcriptions", data={"model": "base", "response_format": "verbose_json"},
                files={"file": (args.clips[place].name, contents[place])},
            )  # fmt: skip
            # Asked to come again, and does.
            if answer.status_code != 429:
                break
            time.sleep(float(answer.headers["Retry-After"]))
        found = answer.json()
        return answer.status_code, f"{found.get('language')} {found.get('expert')} {found.get('text')}"

    begun = time.perf_counter()
    alone = [ask(place) for place in range(len(contents))]
    each = (time.perf_counter() - begun) / len(contents)
    memory = resident(args.process)
    begun = time.perf_counter()
    with ThreadPoolExecutor(args.clients) as pool:
        answers = list(pool.map(ask, range(args.requests)))
    together = (time.perf_counter() - begun) / args.requests
    found = {
        "requests": float(args.requests),
        "lost": float(args.requests - len(answers)),
        "failed": float(sum(status != 200 for status, _ in answers)),
        "different": float(sum(answer != alone[number % len(alone)] for number, answer in enumerate(answers))),
        "seconds a request, one by one": each,
        "seconds a request, side by side": together,
        "times as many": each / together,
    }
    if memory is not None:
        found["MB of memory gained"] = ((resident(args.process) or 0.0) - memory) / 1e6
    for name, value in found.items():
        print(f"{name}: {value:.3g}")
    print(", ".join(f"{count} x {status}" for status, count in Counter(status for status, _ in answers).items()))
    return found


def resident(process: int | None) -> float | None:
    """Bytes of memory that a process holds."""
    if process is None:
        return None
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


if __name__ == "__main__":
    main()
