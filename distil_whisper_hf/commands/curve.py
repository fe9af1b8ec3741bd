"""Curves of what methods gain in domain and lose out of it: rates, steps, seeds and interpolation alike for all.

    distil-whisper curve curve.json --output_dir runs/curve --jobs 2

The recipe names speech in pairs of domains, methods with their learning rates, and what all of them share; there is an
example in `docs/evaluate.md`. Every run is trained, taken back to the base by each weight, and scored. What comes of it
are `points.jsonl` (a line a point), `curve.md` and `curve.png`: the points of each method and its lower-left front, the
error rate out of domain at equal error rates in domain with intervals, and what became of other languages. An
interrupted curve goes on with the runs that it lacks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..data.atomic_files import write_json, write_text
from ..evaluation.report.curves import START, curve_page, draw_curves
from .command_line import Parser
from .curve_runs import Run
from .mistakes import program
from .output_folders import check_output_dir, locked

PROGRAM = "distil-whisper curve"
KINDS = {"expert": "train", "full": "baseline", "lora": "baseline"}


@dataclass(frozen=True)
class Pair:
    """Speech of one language in two domains.

    Attributes:
        name: in tables and figures.
        data: sources to train on; their held-out part is the test in domain.
        language: Whisper's code.
        test_data: sources of another domain.
        other_data: sources of other languages, whose transcripts should stay as they are.
        other_language: their languages.
        flags: of the reading alone, such as `where` and `split_by`.
    """

    name: str
    data: Sequence[str]
    language: str
    test_data: Sequence[str]
    other_data: Sequence[str] = ()
    other_language: Sequence[str] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes:
        name: in tables and figures.
        kind: "expert", "full" or "lora".
        learning_rate: those that are tried.
        flags: of `distil-whisper train` (expert) or `baseline`.
    """

    name: str
    kind: str
    learning_rate: Sequence[float]
    flags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Expected a kind of {', '.join(KINDS)} for method {self.name!r}, got {self.kind!r}.")
        if not self.learning_rate:
            raise ValueError(f"Expected learning rates of method {self.name!r}, got none.")


@dataclass(frozen=True)
class CurveRecipe:
    """A curve.

    Attributes:
        model: what all start from: folder or Hub name.
        pairs, methods: see `Pair` and `Method`.
        reference: name of the method that the others are compared with.
        steps, seeds: each method is trained with all of them.
        weights: shares of what was trained that are scored; the rest are the base's.
        flags: of every training.
        limit: most clips of each test set.
        precision, max_new_tokens, batch_size: of testing.
        resamples: of intervals.
    """

    model: str
    pairs: Sequence[Pair]
    methods: Sequence[Method]
    reference: str
    steps: Sequence[int]
    seeds: Sequence[int] = (0, 1, 2)
    weights: Sequence[float] = (0.5, 0.7, 0.85, 1.0)
    flags: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = 100
    precision: str = "float32"
    max_new_tokens: int = 160
    batch_size: int = 16
    resamples: int = 2000

    def __post_init__(self) -> None:
        for what, named in (("pair", self.pairs), ("method", self.methods)):
            names = [one.name for one in named]
            if not names or len(set(names)) < len(names):
                raise ValueError(f"Expected each {what} once, got {', '.join(names) or 'none'}.")
        if self.reference not in [method.name for method in self.methods]:
            raise ValueError(f"Expected the reference among the methods, got {self.reference!r}.")
        if START in [method.name for method in self.methods]:
            raise ValueError(f"Expected other names of methods than {START!r}, which is the model that all start from.")
        for name in ("steps", "seeds", "weights"):
            if not getattr(self, name):
                raise ValueError(f"Expected {name}, got none.")
        if not all(0 < weight <= 1 for weight in self.weights):
            raise ValueError(f"Expected weights above 0 and at most 1, got {', '.join(map(str, self.weights))}.")

    def runs(self) -> Iterator[Run]:
        """Every training, and the model that all start from for each pair."""
        for pair in self.pairs:
            yield self._run(pair, None, rate=0.0, steps=0, seed=0)
            for seed in self.seeds:
                for method in self.methods:
                    for rate in method.learning_rate:
                        for steps in self.steps:
                            yield self._run(pair, method, rate=rate, steps=steps, seed=seed)

    def _run(self, pair: Pair, method: Method | None, *, rate: float, steps: int, seed: int) -> Run:
        sources = [*pair.test_data, *pair.other_data]
        languages = [*[pair.language] * len(pair.test_data), *pair.other_language]
        data = {
            **pair.flags,
            "data": list(pair.data),
            "language": [pair.language],
            "test_data": sources,
            "test_language": languages,
        }
        if method is None:
            method, flags = Method(START, "full", [0.0]), {}
        else:
            own = {} if method.kind == "expert" else {"method": method.kind}
            flags = {**self.flags, **own, **method.flags}
        return Run(
            pair=pair.name,
            method=method.name,
            program=KINDS[method.kind],
            model=self.model,
            language=pair.language,
            flags=flags,
            data=data,
            learning_rate=rate,
            steps=steps,
            seed=seed,
            weights=tuple(self.weights),
            others=len(pair.other_data),
            limit=self.limit,
            precision=self.precision,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status."""
    args = _parser().read(arguments)
    if args.jobs < 1:
        raise ValueError(f"Expected at least one job, got {args.jobs}.")
    recipe = read_recipe(args.recipe)
    check_output_dir(args.output_dir)
    runs = list(recipe.runs())
    if args.dry_run:
        for run in runs:
            done = "done" if _points_file(args.output_dir, run).exists() else "to do"
            print(f"{done}: {run.name}: distil-whisper {' '.join(run.command(Path('RUN')))}")
        return 0
    with locked(args.output_dir):
        failed = _carry_out(runs, args.output_dir, jobs=args.jobs, keep=args.keep_runs, seconds=args.seconds)
        points = read_points(args.output_dir, runs)
        write_text(args.output_dir / "points.jsonl", "".join(json.dumps(point) + "\n" for point in points))
        text = curve_page(points, reference=recipe.reference, resamples=recipe.resamples)
        write_text(args.output_dir / "curve.md", text + "\n")
        draw_curves(points, args.output_dir / "curve.png")
    print(text)
    left = sum(not _points_file(args.output_dir, run).exists() for run in runs) - len(failed)
    if left:
        print(f"\n{left} of {len(runs)} runs are left: the same command goes on.")
    for name, message in failed.items():
        print(f"distil-whisper curve: run {name} failed: {message}", file=sys.stderr)
    return 1 if failed else 0


def read_recipe(path: Path) -> CurveRecipe:
    """A recipe from its JSON file.

    Raises:
        ValueError: no JSON, a field that is unknown or missing, or a value out of its range; the file is named.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        for name, kind in (("pairs", Pair), ("methods", Method)):
            given[name] = [_made(kind, one) for one in given.get(name, ())]
        return _made(CurveRecipe, given)
    except (ValueError, AttributeError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error


def _made(kind: type, given: Mapping[str, Any]) -> Any:
    """An object of a dataclass from JSON; one value stands for a list of one."""
    known = {one.name: one for one in fields(kind)}
    unknown = sorted(given.keys() - known.keys())
    missing = [name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING]
    missing = [name for name in missing if name not in given]
    if unknown or missing:
        raise ValueError(
            f"Expected the fields {', '.join(known)} of a {kind.__name__.lower()}, got "
            f"{', '.join(unknown) or 'no'} unknown ones, without {', '.join(missing) or 'none'}."
        )
    lists = {name for name, one in known.items() if str(one.type).startswith("Sequence")}
    return kind(**{
        name: [value] if name in lists and not isinstance(value, list) else value for name, value in given.items()
    })  # fmt: skip


def read_points(output: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The points of those runs that are done, in the order of the runs."""
    files = [path for run in runs if (path := _points_file(output, run)).exists()]
    return [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def _points_file(output: Path, run: Run) -> Path:
    return output / "points" / f"{run.name}.jsonl"


def _carry_out(runs: Sequence[Run], output: Path, *, jobs: int, keep: bool, seconds: float | None) -> dict[str, str]:
    """Carry out what is not done yet, each run in a process of its own; returns what failed, and by what."""
    started = time.monotonic()
    todo = [run for run in runs if not _points_file(output, run).exists()]
    failed: dict[str, str] = {}

    def one(run: Run) -> None:
        if seconds is not None and time.monotonic() - started >= seconds:
            return
        log = output / "logs" / f"{run.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as beside, open(log, "w", encoding="utf-8") as file:
            write_json(Path(beside) / "run.json", asdict(run))
            command = [sys.executable, "-m", f"{__package__}.curve_runs", f"{beside}/run.json", str(output)]
            done = subprocess.run([*command, *(["keep"] if keep else [])], stdout=file, stderr=file, check=False)
        if done.returncode:
            last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
            failed[run.name] = f"{last[0] if last else f'exit status {done.returncode}'} (see {log})"

    with ThreadPoolExecutor(jobs) as pool:
        for _ in tqdm(pool.map(one, todo), total=len(todo), desc="runs", unit="run", disable=not todo):
            pass
    return failed


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)
    parser.add_argument("recipe", type=Path, help="JSON file; see above")
    parser.add_argument("--output_dir", type=Path, required=True, section="run", help="folder for points, page, figure")
    parser.add_argument("--jobs", type=int, default=1, section="run", help="runs at a time")
    parser.add_argument("--seconds", type=float, section="run", help="begin no run after this time")
    parser.add_argument("--keep_runs", action="store_true", section="run", help="keep what was trained")
    parser.add_argument("--dry_run", action="store_true", section="run", help="list the runs, and stop")
    return parser
