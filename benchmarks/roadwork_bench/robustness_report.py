"""What `robustness` found, in words and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roadwork_bench.corruptions import CLEAN
from roadwork_bench.wording import span

DOTS_PER_INCH = 120
CONVINCING = 0.05


def summary(report: dict[str, Any]) -> str:
    """The report for people."""
    parts = report["corruptions"]
    head = parts[CLEAN]
    lines = [
        f"Perception under change, {report['method']}: {head['images']} images, {head['groups']} drives, "
        f"{head['roadwork']} with roadwork",
        f"{'':13} {'MCC':>6} {'95% by image':>16} {'95% by drive':>16} {'recall':>7} {'false alarms':>13} "
        f"{'lost':>5} {'won':>4} {'p (Holm)':>9}",
    ]
    for name, part in parts.items():
        text = f"{name:13} {_number(part['mcc']):>6} {span(part['mcc_jeffreys_95']):>16} "
        text += f"{span(part['mcc_by_drive_95']):>16} {_number(part['recall']):>7} "
        text += f"{_number(part['false_alarm_rate']):>13}"
        other = part.get("against_clean")
        if other is not None:
            text += f" {other['only_first_right']:>5} {other['only_second_right']:>4} {other['mcnemar_p_holm']:>9.2g}"
        lines.append(text)
    lines.append("lost, won: images that only the clean, only the changed picture is judged right on")
    lines += [f"  {name}: {part['what']}" for name, part in parts.items() if name != CLEAN]
    paid = report["reward"]
    if paid is not None:
        lines.append(
            f"Miner's reward under the validators' changes, a quarter each: {paid['mean']:.3f} of 1 a challenge (with "
            f"other drives {span(paid['by_drive_95'])})"
        )
    lines += [f"Note: {note}" for note in report["notes"]]
    lines += [f"Not usable: {file}" for file in report["refused"]]
    lines += [f"WARNING: {warning}" for warning in report["warnings"]]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def plot(report: dict[str, Any], path: Path) -> None:
    """MCC of each change with its interval by image, and beside it recall and false alarm rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts = report["corruptions"]
    names = list(parts)
    places = range(len(names))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 1.2 + 0.3 * len(names)), sharey=True)
    try:
        for place, part in zip(places, parts.values(), strict=True):
            if part["mcc"] is None:
                continue
            adjusted = part.get("against_clean", {}).get("mcnemar_p_holm", 1.0)
            color = "#c40000" if adjusted < CONVINCING else "#555555"
            low, high = part["mcc_jeffreys_95"]
            left.plot([low, high], [place, place], color=color, linewidth=2)
            left.plot([part["mcc"]], [place], "o", color=color)
        if parts[CLEAN]["mcc"] is not None:
            left.axvline(parts[CLEAN]["mcc"], color="#999999", linestyle="--", linewidth=1)
        left.set(xlabel=f"MCC, 95% by image (red: McNemar p < {CONVINCING:g} after Holm)")
        left.set_yticks(list(places), names)
        left.set_ylim(len(names) - 0.5, -0.5)
        for key, label, color in (
            ("recall", "recall", "#0057b7"),
            ("false_alarm_rate", "false alarm rate", "#c45500"),
        ):
            shown = [
                (part[key], place) for place, part in zip(places, parts.values(), strict=True) if part[key] is not None
            ]
            right.plot([value for value, _ in shown], [place for _, place in shown], "o", color=color, label=label)
        right.set(xlim=(-0.02, 1.02), xlabel="share of images")
        right.legend(fontsize=8)
        figure.suptitle(f"Perception under change, {report['method']}", fontsize=10)
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH)
    finally:
        pyplot.close(figure)
