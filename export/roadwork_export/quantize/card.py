"""The model card of a compressed tier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .subject import Subject


def card(name: str, subject: Subject, record: Mapping[str, Any]) -> str:
    """Text of MODEL_CARD.md: what it was made of, how, and how far its answers are from the original's."""
    check, weights = record["check"], record["weights"]
    mcc = check["mcc_at_half"]
    group = "" if subject.group is None else f", groups of {subject.group}"
    calibrated = (
        f"on {record['calibration']['images']} images ({record['calibration']['from']})"
        if record["calibration"] is not None
        else "without images: this scheme needs none"
    )
    lines = [
        f"# {name}",
        "",
        f"{subject.name} with compressed weights. Purpose, licence and limits are those of {subject.name}.",
        "",
        f"- **Scheme**: {subject.scheme.name}{group}: {subject.scheme.what}. Format: compressed-tensors.",
        f"- **Kept**, byte for byte: vision tower, embeddings, output layer, norms ({subject.architecture}).",
        f"- **Calibrated** {calibrated}.",
        f"- **Weights**: {_mb(weights['before'])} before, {_mb(weights['after'])} after; of these the layers that were "
        f"compressed {_mb(weights['layers_before'])} and {_mb(weights['layers_after'])}.",
        f"- **Command**: `{record['about']['command']}` (llmcompressor {record['llmcompressor']}).",
        "",
        "## Against the original",
        f"On {check['images']} other images ({record['compared_on']}), {record['compared_by']}:",
        "",
        "| probability of yes, mean difference | largest | same side of 0.5 | MCC at 0.5 before, after |",
        "| --- | --- | --- | --- |",
        f"| {check['mean_difference']:.4f} (limit {check['limit']:g}) | {check['largest_difference']:.4f} | "
        f"{100 * check['agreement_at_half']:.1f}% | "
        + ("no labels |" if mcc is None else f"{mcc['before']:.3f}, {mcc['after']:.3f} |"),
        "",
        "A tier's calibration in `policy.yaml` is that of its weights: fit it anew (`roadwork-bench fit`).",
    ]
    return "\n".join(lines) + "\n"


def _mb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.2f} MB"
