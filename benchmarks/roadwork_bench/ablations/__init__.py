"""One file an ablation: `QUESTION`, what it asks, and `measure(settings)`, what it found (`measuring.outcome`).

One that needs more than the model repository has `check(settings)`, which raises BenchError.
"""
