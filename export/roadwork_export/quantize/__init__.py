"""Tiers with compressed weights: made by llmcompressor in an environment of its own, served and compared before use."""
