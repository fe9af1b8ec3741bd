"""Error rates of transcripts and translations."""
