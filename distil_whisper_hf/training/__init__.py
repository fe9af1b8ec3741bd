"""Training of language experts: data, losses and the map to a teacher's vocabulary, each in the module of its name."""
