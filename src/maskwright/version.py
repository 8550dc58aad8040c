"""The version, where packaging and every module find it."""

__version__ = "0.2.0"
