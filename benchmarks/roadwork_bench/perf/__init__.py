"""Drives NVIDIA's perf_analyzer: finding it, feeding it, running it, and reading what it measured."""
