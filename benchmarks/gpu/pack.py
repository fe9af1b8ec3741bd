"""Pack what a machine with a GPU and no network needs: this project, a Whisper, the speech of a curve, wheels.

    python benchmarks/gpu/pack.py --base BASE --recipe examples/recipes/curve.json --output pack
    # there, with all pieces in one folder:
    cat pack.tar.* | tar x && python measure.py --seconds 540 --output results

BASE is the folder of a Whisper. The recipe is one of `distil-whisper curve`, whose sources are folders with
metadata.csv; of each, at most --most rows are taken, in the order of a hash of their file names, and only those that
its `where` chooses. --wheels is a folder of wheels to install there. Pieces are of at most --piece_mb MB, and each lies
in a folder of its own, for machines that are reached through a small opening; `pack.sha256` has the digest of the
whole. Weights are packed in half precision, unless --whole is given.
"""

import argparse
import csv
import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
# What the measurements import and read.
PROJECT = ("distil_whisper_hf", "benchmarks", "examples/audio", "setup.py", "README.md", "LICENSE")


def pack_project(place: Path) -> None:
    """The sources and the clip that the benchmarks transcribe; `measure.py` at the top."""
    for name in PROJECT:
        source, target = ROOT / name, place / "project" / name
        if source.is_dir():
            # Of the benchmarks, what they have measured is left out.
            left_out = ["__pycache__", *(["report"] if name == "benchmarks" else [])]
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*left_out))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    shutil.copy(Path(__file__).with_name("measure.py"), place)


def pack_base(base: Path, place: Path, *, whole: bool) -> None:
    """Weights and the files beside them; in half precision they open in float32 all the same."""
    weights = base / "model.safetensors"
    if not weights.is_file():
        raise SystemExit(f"Expected a Whisper with model.safetensors in {base}, found none.")
    (place / "base").mkdir()
    for path in [*base.glob("*.json"), *base.glob("*.txt")]:
        shutil.copy(path, place / "base")
    tensors = load_file(weights)
    if not whole:
        tensors = {key: value.half() if value.dtype == torch.float32 else value for key, value in tensors.items()}
    save_file(tensors, place / "base" / weights.name, metadata={"format": "pt"})


def pack_speech(source: Path, place: Path, *, where: Mapping[str, str], most: int | None) -> None:
    """Some rows of a folder, with the audio that they name."""
    table = source / "metadata.csv"
    if not table.is_file():
        raise SystemExit(f"Expected a folder with metadata.csv, got {source}.")
    with table.open(encoding="utf-8", newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if all(row.get(key, value) == value for key, value in where.items())
        ]
    rows.sort(key=lambda row: hashlib.sha256(row["file_name"].encode()).hexdigest())
    if not rows:
        raise SystemExit(f"Expected rows in {table}, found none.")
    for row in rows[:most]:
        target = place / row["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / row["file_name"], target)
    with (place / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows[:most])


def pack_recipe(path: Path, place: Path, *, most: int | None) -> None:
    """The recipe with names that hold there, and its speech; `training.json` says what the training table reads."""
    recipe = json.loads(path.read_text(encoding="utf-8"))
    recipe["model"] = "base"
    packed: dict[str, str] = {}

    def moved(sources: Any, where: Mapping[str, str]) -> list[str]:
        names = []
        for source in _listed(sources):
            if source not in packed:
                name = Path(source).name
                # Two folders of one name.
                name = f"{name}-{len(packed)}" if f"speech/{name}" in packed.values() else name
                packed[source] = f"speech/{name}"
                pack_speech(Path(source), place / packed[source], where=where, most=most)
            names.append(packed[source])
        return names

    for pair in recipe["pairs"]:
        where = dict(one.split("=", 1) for one in pair.get("flags", {}).get("where", []))
        for field in ("data", "test_data", "other_data"):
            if pair.get(field):
                pair[field] = moved(pair[field], where)
    (place / "curve.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    first = recipe["pairs"][0]
    training = {"speech": first["data"][0], "language": first["language"]}
    (place / "training.json").write_text(json.dumps(training) + "\n", encoding="utf-8")


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def pieces(tar: Path, output: Path, size: int) -> Iterator[Path]:
    """Cut a file into pieces of at most `size` bytes, each in a folder of its own."""
    with tar.open("rb") as file:
        number = 0
        while content := file.read(size):
            folder = output / f"piece-{number}"
            folder.mkdir(parents=True)
            (folder / f"pack.tar.{number:03d}").write_bytes(content)
            yield folder / f"pack.tar.{number:03d}"
            number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder of a Whisper")
    parser.add_argument("--recipe", type=Path, default=ROOT / "examples/recipes/curve.json", help="of a curve")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install there")
    parser.add_argument("--most", type=int, default=200, help="rows of each source")
    parser.add_argument("--piece_mb", type=float, default=60.0)
    parser.add_argument("--whole", action="store_true", help="weights as they are")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    args = parser.parse_args()
    if args.output.exists():
        raise SystemExit(f"Expected a folder to make, {args.output} is there already. Move it away first.")
    with tempfile.TemporaryDirectory() as beside:
        place = Path(beside) / "pack"
        place.mkdir()
        pack_project(place)
        pack_base(args.base, place, whole=args.whole)
        pack_recipe(args.recipe, place, most=args.most)
        (place / "wheels").mkdir()
        for wheel in sorted(args.wheels.glob("*.whl")) if args.wheels else ():
            shutil.copy(wheel, place / "wheels")
        tar = Path(beside) / "pack.tar"
        with tarfile.open(tar, "w") as archive:
            for path in sorted(place.iterdir()):
                archive.add(path, path.name)
        made = list(pieces(tar, args.output, int(args.piece_mb * 2**20)))
        with tar.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        (args.output / "pack.sha256").write_text(f"{digest}  pack.tar\n", encoding="utf-8")
    for path in made:
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
