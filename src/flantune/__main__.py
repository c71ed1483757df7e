"""`python -m flantune`: the command line."""

from flantune.cli import main

main()
