"""Pieces that the exported graphs are made of, and what joins, converts and writes them."""
