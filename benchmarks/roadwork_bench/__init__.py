"""Record scores, fit the policy on them, and say how right and how fast the cascade is."""
