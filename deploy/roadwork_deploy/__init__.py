"""Starts the whole server on this machine (`server`, `serve`), and keeps the repository in step (`wire`)."""
