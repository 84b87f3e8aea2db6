"""Ablations: a recipe changed in one thing at a time, trained over settings and seeds, tested, and laid out in one table."""
