"""The peers: what each web framework needs around the same decoder, sessions and consensus.

These modules run in the peers' own environment (`roadwork_bench.peering.environment`): they import the framework, ONNX
Runtime, the model repository's own Python and nothing of Triton.
"""
