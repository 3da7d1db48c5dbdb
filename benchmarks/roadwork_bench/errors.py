"""Errors that `roadwork-bench` answers with one line and exit status 2."""

from __future__ import annotations


class BenchError(ValueError):
    """Something that whoever runs the command can put right; the message says what."""
