"""Measuring peers: their environment, their processes, the load on them, and what it comes to."""
