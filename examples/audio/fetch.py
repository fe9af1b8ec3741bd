"""Speech from Debian's packages of telephone prompts: the clips of this folder, or all that is said in a language.

    pip install av==18.1.0 soundfile
    python examples/audio/fetch.py [DEST]               the clips of metadata.csv; default DEST: the folder of this file
    python examples/audio/fetch.py --all ru speech/ru   some hundred Russian prompts, to train and test on

Needs Debian or a relative of it, with `apt-get update` done. Each clip is one prompt, whole and unchanged but for its
format: `apt-get download` fetches asterisk-core-sounds-<language>-g722 (G.722 at 64 kbit/s,
16 kHz, mono) and asterisk-core-sounds-<language> (the texts), `dpkg -x` unpacks them into a temporary folder, and the
prompt is decoded and written as Ogg Vorbis. Nothing is installed. The text in metadata.csv must be the package's own.
Downloads 10 to 45 MB; takes a few seconds. The samples come out equal each time, but not the files' bytes: an Ogg
stream has a random serial number. --all takes the languages en, es, fr, it and ru, one speaker each; prompts whose text
is no speech ("[beep]") or has digits, which are read as words, are left out. As root, apt-get warns that it downloads
unsandboxed, which is harmless.
"""

import argparse
import csv
import gzip
import re
import subprocess
import tempfile
from pathlib import Path

import av
import numpy as np
import soundfile

HERE = Path(__file__).parent
VERSION = "1.6.1-1"
SAMPLING_RATE = 16_000


def unpack(package: str, *, into: Path) -> Path:
    """Download one version of a Debian package and return the folder that holds its unpacked files."""
    subprocess.run(["apt-get", "download", "-qq", f"{package}={VERSION}"], cwd=into, check=True)
    archive = next(into.glob(f"{package}_*.deb"))
    subprocess.run(["dpkg", "-x", archive, into / package], check=True)
    return into / package


def read_texts(package_folder: Path) -> dict[str, str]:
    """Return the spoken text of each prompt, by the prompt's name; lines that begin with `;` are comments."""
    (listing,) = package_folder.glob("usr/share/doc/*/core-sounds-*.txt.gz")
    lines = gzip.decompress(listing.read_bytes()).decode("utf-8").splitlines()
    entries = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    return {name: text.strip() for name, text in entries}


def decode_g722(path: Path) -> np.ndarray:
    """Return the samples of a raw G.722 file, int16 at 16 kHz."""
    with av.open(path, format="g722") as container:
        frames = list(container.decode(audio=0))
    if {frame.sample_rate for frame in frames} != {SAMPLING_RATE}:
        raise ValueError(f"{path.name}: expected {SAMPLING_RATE} Hz in every frame")
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def find_prompt(sounds: Path, name: str) -> Path:
    """The sound file of a prompt, whose name may have a folder in it; a package holds one voice."""
    (prompt,) = sounds.glob(f"usr/share/asterisk/sounds/*/{name}.g722")
    return prompt


def make_clip(row: dict[str, str], *, dest: Path, scratch: Path) -> None:
    """Write the clip of one row of metadata.csv into `dest`."""
    package = f"asterisk-core-sounds-{row['language']}"
    text = read_texts(unpack(package, into=scratch))[row["prompt"]]
    if text != row["text"]:
        raise ValueError(f"{row['file_name']}: metadata.csv says {row['text']!r}, {package} says {text!r}")
    write_clip(find_prompt(unpack(f"{package}-g722", into=scratch), row["prompt"]), dest / row["file_name"])


def write_clip(prompt: Path, path: Path) -> None:
    """Write a prompt as Ogg Vorbis."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, decode_g722(prompt), SAMPLING_RATE, format="OGG", subtype="VORBIS")


def make_corpus(language: str, *, dest: Path, scratch: Path) -> int:
    """Write all prompts of a language as an `audiofolder` data set; returns how many there are."""
    texts = read_texts(unpack(f"asterisk-core-sounds-{language}", into=scratch))
    sounds = unpack(f"asterisk-core-sounds-{language}-g722", into=scratch)
    spoken = {name: text for name, text in texts.items() if text and not re.search(r"[\d\[\]()<>]", text)}
    there = {name for name in spoken if [*sounds.glob(f"usr/share/asterisk/sounds/*/{name}.g722")]}
    dest.mkdir(parents=True, exist_ok=True)
    with (dest / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "text", "language"])
        for name in sorted(there):
            write_clip(find_prompt(sounds, name), dest / f"{name}.ogg")
            table.writerow([f"{name}.ogg", spoken[name], language])
    return len(there)


def main() -> None:
    """Make every clip of metadata.csv, or all of one language."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", nargs="?", type=Path, default=HERE, help="folder to make; default: that of this file")
    parser.add_argument("--all", choices=("en", "es", "fr", "it", "ru"), help="all prompts of this language")
    args = parser.parse_args()
    args.dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        if args.all:
            print(f"{make_corpus(args.all, dest=args.dest, scratch=Path(scratch))} clips in {args.dest}")
            return
        with (HERE / "metadata.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            make_clip(row, dest=args.dest, scratch=Path(scratch))
            print(f"{row['file_name']}: {row['text']}")


if __name__ == "__main__":
    main()
