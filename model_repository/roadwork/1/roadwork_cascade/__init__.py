"""The cascade: which models to ask about an image, what their answers are worth together, when to stop.

Plain Python and NumPy without any Triton import, so that it runs in the server, in benchmarks and in tests alike. This
file imports nothing: `roadwork_cascade.taxonomy` needs the standard library only, and the client reads it.
"""
