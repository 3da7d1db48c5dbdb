"""Measures one vision-language tier behind Triton against the same engine called directly."""
