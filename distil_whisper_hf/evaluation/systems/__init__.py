"""Models that are evaluated: opened, quantised, run and measured."""
