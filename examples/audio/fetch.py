"""Make the clips of this folder again from Debian's packages of telephone prompts.

    pip install av==18.1.0 soundfile
    python examples/audio/fetch.py [DEST]          default DEST: the folder of this file

Needs Debian or a relative of it, with `apt-get update` done. Each clip of metadata.csv is one prompt, whole and
unchanged but for its format: `apt-get download` fetches asterisk-core-sounds-<language>-g722 (G.722 at 64 kbit/s,
16 kHz, mono) and asterisk-core-sounds-<language> (the texts), `dpkg -x` unpacks them into a temporary folder, and the
prompt is decoded and written as Ogg Vorbis. Nothing is installed. The text in metadata.csv must be the package's own.
Downloads 35 MB; takes a few seconds. The samples come out equal each time, but not the files' bytes: an Ogg stream has
a random serial number. As root, apt-get warns that it downloads unsandboxed, which is harmless.
"""

import csv
import gzip
import subprocess
import sys
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


def make_clip(row: dict[str, str], *, dest: Path, scratch: Path) -> None:
    """Write the clip of one row of metadata.csv into `dest`."""
    package = f"asterisk-core-sounds-{row['language']}"
    text = read_texts(unpack(package, into=scratch))[row["prompt"]]
    if text != row["text"]:
        raise ValueError(f"{row['file_name']}: metadata.csv says {row['text']!r}, {package} says {text!r}")
    sounds = unpack(f"{package}-g722", into=scratch)
    (prompt,) = sounds.glob(f"usr/share/asterisk/sounds/*/{row['prompt']}.g722")
    soundfile.write(dest / row["file_name"], decode_g722(prompt), SAMPLING_RATE, format="OGG", subtype="VORBIS")


def main() -> None:
    """Make every clip of metadata.csv."""
    dest = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    dest.mkdir(parents=True, exist_ok=True)
    with (HERE / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with tempfile.TemporaryDirectory() as scratch:
        for row in rows:
            make_clip(row, dest=dest, scratch=Path(scratch))
            print(f"{row['file_name']}: {row['text']}")


if __name__ == "__main__":
    main()
