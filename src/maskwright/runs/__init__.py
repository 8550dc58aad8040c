"""A run folder: its stages, the facts kept beside them, and how they are read back."""
