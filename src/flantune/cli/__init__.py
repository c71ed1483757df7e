"""The command line: parse, call, print. `main` is the console script."""

from flantune.cli.app import main

__all__ = ["main"]
