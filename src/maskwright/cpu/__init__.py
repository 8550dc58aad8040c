"""Compiled kernels for the CPU, and how they share its threads."""
