"""What the server counted during a run: requests, queue and compute of every model, also of those inside an ensemble or
the cascade.

Triton's statistics before and after are subtracted, so that this holds for BLS too, with no list of its models;
whatever else the server was asked meanwhile is counted as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Counts = dict[str, dict[str, int]]

DEADLINE_SECONDS = 10.0
STEPS = ("queue", "compute_input", "compute_infer", "compute_output")


def read_statistics(client: Any) -> Counts:
    """Model -> its counters so far: `requests`, `failed`, `inferences`, `executions`, and nanoseconds of each step.

    Args:
        client: `tritonclient.grpc.InferenceServerClient`.
    """
    found: Counts = {}
    for model in client.get_inference_statistics(client_timeout=DEADLINE_SECONDS).model_stats:
        stats = model.inference_stats
        mine = found.setdefault(model.name, {})
        counts = {
            "requests": stats.success.count,
            "failed": stats.fail.count,
            "inferences": model.inference_count,
            "executions": model.execution_count,
            **{f"{step}_ns": getattr(stats, step).ns for step in STEPS},
            "total_ns": stats.success.ns,
        }
        for key, value in counts.items():  # versions of a model count together
            mine[key] = mine.get(key, 0) + int(value)
    return found


def between(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, Any]]:
    """Model -> what it did meanwhile, of those that did anything; milliseconds are means of a request."""
    found = {}
    for name, counts in after.items():
        had = before.get(name, {})
        did = {key: value - had.get(key, 0) for key, value in counts.items()}
        if did["requests"] + did["failed"] < 1:
            continue
        requests = max(1, did["requests"])
        found[name] = {
            "requests": did["requests"],
            "failed": did["failed"],
            # Ensembles compute nothing themselves, so they have executions of no model.
            "batch": round(did["inferences"] / did["executions"], 2) if did["executions"] else None,
            "total_ms": round(did["total_ns"] / requests / 1e6, 3),
            **{f"{step}_ms": round(did[f"{step}_ns"] / requests / 1e6, 3) for step in STEPS},
        }
    return found
