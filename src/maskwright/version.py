"""The version, where packaging and every module find it."""

__version__ = "0.1.0"
