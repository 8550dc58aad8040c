"""The command line: what each verb takes, what it does, and how the process ends."""

from maskwright.cli.endings import main
from maskwright.cli.verbs import app

__all__ = ["app", "main"]
