"""Files for which the ffmpeg program is needed, made by it; a test is skipped where it cannot make them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from speech_files import encoded

# Name -> how it is encoded: containers with their index at the beginning, at the end and in fragments, and without one.
FORMATS = {
    "end.m4a": ("-c:a", "aac"),
    "start.m4a": ("-c:a", "aac", "-movflags", "+faststart"),
    "fragments.mp4": ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"),
    "sound.webm": ("-c:a", "libopus"),
    "sound.wma": ("-c:a", "wmav2"),
    "sound.aac": ("-c:a", "aac"),
    "sound.amr": ("-ar", "8000", "-c:a", "libopencore_amrnb"),
    "sound.mka": ("-c:a", "flac"),
    "sound.flv": ("-ar", "22050", "-c:a", "aac"),
    "video.mp4": ("-f", "lavfi", "-i", "color=c=blue:s=32x32:r=5:d=9", "-c:v", "mpeg4", "-c:a", "aac"),
    "coded.wav": ("-c:a", "g722"),
}
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")


def make(path: Path, samples: np.ndarray) -> Path:
    """Mono samples at 16 kHz in the format of that name."""
    command = ["ffmpeg", "-v", "error", "-y", "-i", "pipe:0", *FORMATS[path.name], path]
    made = subprocess.run(command, input=encoded(samples), capture_output=True)
    if made.returncode != 0:
        pytest.skip(f"this ffmpeg cannot write {path.name}: {made.stderr.decode().splitlines()[0]}")
    return path
