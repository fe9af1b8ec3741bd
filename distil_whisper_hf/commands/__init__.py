"""Programs: each module has `main(arguments)`, which `distil-whisper` and the files in examples/ call."""
