"""Error rates of speech recognition, how certain they are, and whom they disadvantage."""
