"""Per-language expert feed-forward networks with token gates for Whisper, as a Transformers extension."""

__version__ = "0.1.0"
