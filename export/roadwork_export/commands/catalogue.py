"""`list` and `show`: what the catalogue says of the models."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..catalogue import LEVELS, OWN, PRECISIONS, STATUSES, Entry, load_catalogue
from ..registry import family_names
from ..serving import Serving, TextModel, VisionModel

PLAN_WIDTH = 32
LICENCE_WIDTH = 26
BUILT = ("scene", "yolox_nano", "centernet_nano")
"""The project's own networks, which `build` exports."""


def add(commands: argparse._SubParsersAction) -> None:
    """Register the commands of this group."""
    listing = commands.add_parser("list", help="the models of the catalogue as a table")
    listing.add_argument("--level", choices=LEVELS, help="of the plan")
    listing.add_argument("--licence", help="a part of its name, such as apache")
    listing.add_argument("--family", choices=(*family_names(), OWN), help="what exports it")
    listing.add_argument("--status", choices=STATUSES)
    listing.add_argument("--json", action="store_true", help="all fields, as a JSON list")
    listing.set_defaults(run=run_list)

    show = commands.add_parser("show", help="all that the catalogue says of a model, and the command that exports it")
    show.add_argument("name", help="in the catalogue, or in the plan")
    show.add_argument("--json", action="store_true", help="all fields, as a JSON object")
    show.set_defaults(run=run_show)


def run_list(arguments: argparse.Namespace) -> int:
    found = load_catalogue().select(
        level=arguments.level, licence=arguments.licence, family=arguments.family, status=arguments.status
    )
    if arguments.json:
        print(json.dumps([as_json(entry) for entry in found], indent=2, ensure_ascii=False))
        return 0
    if not found:
        print("no model is like that; without options, list shows all", file=sys.stderr)
        return 0
    print(table(found))
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """A name of the plan shows every entry that stands for it; JSON is then a list where there are several.

    Raises:
        CatalogueError: there is no such model.
    """
    catalogue = load_catalogue()
    planned = () if arguments.name in catalogue else catalogue.planned(arguments.name)
    found = planned or (catalogue.get(arguments.name),)
    if arguments.json:
        shown = [as_json(entry) for entry in found]
        print(json.dumps(shown if len(shown) > 1 else shown[0], indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(describe(entry) for entry in found))
    return 0


def as_json(entry: Entry) -> dict[str, Any]:
    """Its fields, the bytes of its weights by precision, and the command; null where there is none."""
    memory = {precision: entry.memory(precision) for precision in PRECISIONS}
    return {**entry.to_dict(), "memory": memory, "command": export_command(entry)}


def table(entries: Sequence[Entry]) -> str:
    head = ("name", "plan", "level", "role", "licence", "commercial", "parameters", "status")
    rows = [
        (
            entry.name,
            _cut(", ".join(entry.plan) or "-", PLAN_WIDTH),
            ",".join(entry.level) or "-",
            entry.role,
            _cut(entry.licence, LICENCE_WIDTH),
            entry.commercial,
            count(entry.parameters),
            entry.status,
        )
        for entry in entries
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    right = head.index("parameters")
    lines = (
        "  ".join(f"{cell:>{width}}" if i == right else f"{cell:<{width}}"
                  for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in (head, *rows)
    )  # fmt: skip
    return "\n".join(lines)


def describe(entry: Entry) -> str:
    """A line a field; those that say nothing are left out."""
    lines = {
        "plan": ", ".join(entry.plan) or "not named there",
        "changed": entry.changed,
        "level": ", ".join(entry.level) or "none",
        "role": entry.role,
        "status": entry.status,
        "reason": entry.reason,
        "instead": entry.instead,
        "family": entry.family or "none",
        "source": entry.source or "none",
        "licence": entry.licence,
        "commercial": _COMMERCIAL[entry.commercial],
        "gated": "the publisher wants an agreement before the download" if entry.gated else "no",
        "parameters": count(entry.parameters),
        "memory": ", ".join(f"{p} {size(entry.memory(p))}" for p in PRECISIONS) if entry.parameters else None,
        "input": f"{entry.input} px" if entry.input else "varies, or none",
        "arguments": _pairs(entry.arguments),
        "served": entry.served,
        **(serving_lines(entry.serving) if entry.serving else {}),
        "weight": "none, it does not vote" if entry.weight is None else f"{entry.weight:g}",
        "limits": "; ".join(f"{p}: {_pairs(at)}" for p, at in entry.limits.items()),
        "note": entry.note,
        "command": export_command(entry) or "none",
    }
    return "\n".join([entry.name, *(f"  {name:<11}  {text}" for name, text in lines.items() if text)])


def serving_lines(serving: Serving) -> dict[str, str | None]:
    """What `describe` says of a model that vLLM serves, by the name of its line."""
    return {
        "engine": f"vLLM's {serving.architecture}, context {serving.context} tokens, prompt of a {serving.prompt}",
        "remote code": "yes: the publisher's own Python is run" if serving.remote_code else "no",
        "text": _text(serving.text) if serving.text else "sizes are not known",
        "vision": _vision(serving.vision) if serving.vision else "sizes are not known",
        "other": f"{serving.other:g} B parameters besides" if serving.other else None,
        "checkpoints": _pairs(serving.checkpoints),
        "online": ", ".join(serving.online),
        "settings": json.dumps(dict(serving.settings)) if serving.settings else None,
        "price": f"{serving.price:g} US dollars a million tokens, a guess" if serving.price else None,
        "verified": serving.verified,
    }


def _text(text: TextModel) -> str:
    cache = 2 * text.kv_layers * (text.latent or text.kv_heads * text.head_dim) * (1 if text.latent else 2)
    said = (
        f"{text.layers} layers of {text.hidden}",
        f"{text.heads} heads on {text.kv_heads} of {text.head_dim}",
        f"network {text.intermediate}" if text.expert_layers < text.layers else None,
        f"{text.experts} experts of {text.expert_intermediate} in {text.expert_layers} layers, {text.active_experts} "
        "active" if text.experts else None,
        f"vocabulary {text.vocabulary}{', tied' if text.tied else ''}",
        f"cache in {text.kv_layers} layers, {cache / 1e3:.1f} kB a token at bf16",
    )  # fmt: skip
    return "; ".join(part for part in said if part)


def _vision(vision: VisionModel) -> str:
    return (
        f"{vision.params:g} B parameters; {vision.layers} layers of {vision.hidden}; {vision.heads} heads; network "
        f"{vision.intermediate}; a token is {vision.patch * vision.merge} px a side"
    )


def export_command(entry: Entry) -> str | None:
    """The command that writes its folder; None where there is none.

    A reader of documents gets none: a tier answers yes or no. Florence-2 reads signs, and gets its own.
    """
    if entry.name.startswith("florence2_"):
        return shlex.join(["roadwork-export", "florence2", entry.name, "--weights", entry.source or "FOLDER"])
    if entry.served in ("none", "api") or (entry.family is None and entry.served != "vllm") or entry.role == "words":
        return None
    if entry.name in BUILT:
        return f"roadwork-export build {entry.name} --weights FOLDER"
    if entry.served == "vllm":
        words = ["roadwork-export", "tier", entry.name, "--weights", entry.source or "FOLDER"]
        return shlex.join([*words, "--kind", "reasoner"] if entry.role == "reasoner" else words)
    words = ["roadwork-export", "onnx", entry.name, "--weights", entry.source or "PATH"]
    return shlex.join(words if entry.commercial == "yes" else [*words, "--accept-licence", entry.licence])


def count(parameters: float | None) -> str:
    """2.62 M, 4.44 B; - where it is not known."""
    if parameters is None:
        return "-"
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"


def size(octets: float | None) -> str:
    """Bytes as decimal MB or GB."""
    if octets is None:
        return "unknown"
    return f"{octets / 1e9:.2f} GB" if octets >= 1e9 else f"{octets / 1e6:.1f} MB"


_COMMERCIAL = {
    "yes": "yes",
    "agpl": "agpl (its terms reach what is served with it)",
    "terms": "terms (allowed with conditions)",
    "no": "no",
    "unclear": "unclear",
}


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_word(value)}" for key, value in values.items())


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
