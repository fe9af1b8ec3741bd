"""Speech with transcripts: from a folder, a table or the Hub to clips that can be trained on and scored."""
