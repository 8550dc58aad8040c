"""Recipes end to end: the stages of a run, its scores, and runs side by side."""
