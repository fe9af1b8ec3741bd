"""Recordings of any length to segments and words, of different languages in one batch."""
