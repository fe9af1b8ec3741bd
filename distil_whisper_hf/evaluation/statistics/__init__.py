"""How certain a figure is, and how far groups and languages differ."""
