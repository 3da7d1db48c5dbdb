"""The report of `accuracy` and `fit` for people."""

from __future__ import annotations

from typing import Any


def summary(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"Cascade, {report['method']}:", f"  {sentence(report['overall'])}", f"  {_rest(report['overall'])}"]
    for source, part in report["within"].items():
        lines += [f"Within {source} alone:", f"  {sentence(part)}", f"  {_rest(part)}"]
    for key in (key for key in report if key.startswith("by_")):
        lines.append(f"By {key[3:]}:")
        for name, part in report[key].items():
            wrong = f"{part['fp']} false alarms, {part['fn']} missed"
            mcc = "" if part["mcc"] is None else f"; MCC {part['mcc']:.3f} ({span(part['mcc_jeffreys_95'])} by image)"
            lines.append(f"  {name}: {part['images']} images, {part['roadwork']} roadwork; {wrong}{mcc}")
    if "against" in report:
        lines += _against(report["against"])
    if "baseline" in report:
        base = report["baseline"]
        lines += [f"Baseline, {base['what']}:", f"  {sentence(base['overall'])}"]
        lines += [f"  within {source} alone: {sentence(part)}" for source, part in base["within"].items()]
        lines.append(
            f"  only the cascade right on {base['only_cascade_right']}, only blobs on {base['only_blobs_right']} "
            f"(exact McNemar p = {base['mcnemar_p']:.2g}); MCC gain by drive 95%: {span(base['mcc_gain_by_drive_95'])}"
        )
    stages = report["stages"]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in stages["asked"].items())
    lines.append(f"Stages asked: {shares}; {stages['milliseconds_mean']} ms an image one by one")
    if stages.get("all_stages_mcc") is not None:
        lines.append(
            f"All stages always: MCC {stages['all_stages_mcc']:.3f}; stages change {stages['decisions_changed']} "
            f"decisions and cost {stages['mcc_cost_of_staging']:.3f}"
        )
    bins = report["reliability"]
    lines.append(
        f"Reliability: ECE {bins['ece_equal_mass']:.3f} over {len(bins['bins'])} bins of equal mass; in "
        f"{bins['outside']} of them the mean probability lies outside the 95% interval of the share with roadwork"
    )
    if report["reward"] is not None:
        paid = report["reward"]
        lines.append(
            f"Miner's reward, replayed on these photographs: {paid['mean']:.3f} of 1 a challenge (95% of "
            f"{paid['replays']} replays {span(paid['replays_95'])}; with other drives {span(paid['by_drive_95'])})"
        )
    lines += [f"Note: {note}" for note in report["notes"]]
    lines += [f"Not usable: {file}" for file in report["refused"]]
    lines += [f"WARNING: {warning}" for warning in report["warnings"]]
    return "\n".join(lines)


def _against(other: dict[str, Any]) -> list[str]:
    gain = other["mcc_gain"]
    return [
        f"Against {other['policy']}, {other['method']}:",
        f"  {sentence(other['overall'])}",
        f"  only this policy right on {other['only_first_right']}, only the other on {other['only_second_right']} "
        f"(exact McNemar p = {other['mcnemar_p']:.2g}); the other's MCC is "
        + ("undefined" if gain is None else f"{gain:+.3f}, by drive 95%: {span(other['mcc_gain_by_drive_95'])}"),
    ]


def sentence(part: dict[str, Any]) -> str:
    """MCC x (95% CI a to b by image, c to d by drive; n images, d drives, prevalence)."""
    size = f"{part['images']} images, {part['groups']} drives, {part['roadwork']} with roadwork"
    if part["mcc"] is None:
        return f"MCC undefined, one class only ({size}); {part['fp']} false alarms, {part['fn']} missed"
    return (
        f"MCC {part['mcc']:.3f} (95% CI {span(part['mcc_jeffreys_95'])} by image, "
        f"{span(part['mcc_by_drive_95'])} by drive; {size}, prevalence {part['prevalence']:.2f})"
    )


def _rest(part: dict[str, Any]) -> str:
    names = {
        "balanced_accuracy": "balanced accuracy",
        "precision": "precision",
        "recall": "recall",
        "auroc": "AUROC",
        "brier": "Brier",
        "ece": "ECE",
    }
    shown = [f"{label} {part[key]:.3f}" for key, label in names.items() if part.get(key) is not None]
    return ", ".join([*shown, f"{part['fp']} false alarms, {part['fn']} missed"])


def span(interval: list[float] | None) -> str:
    """LOW to HIGH."""
    return "unknown" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
