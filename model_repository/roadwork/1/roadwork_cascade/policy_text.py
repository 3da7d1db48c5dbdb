"""A policy as commented YAML text."""

from __future__ import annotations

from typing import Any

import yaml

HEADER = """\
# What the cascade decides by. docs/contracts.md explains each field; errors at load name the field.
# The fitting command writes this file: do not type weights, calibration or bounds by hand.
"""

COMMENTS = {
    "fitted": "null: not fitted",
    "threshold": "probability at or over it is roadwork",
    "quorum": "least share of the asked members' weight that must have answered",
    "deadline_ms": "of a request, where the caller names none",
    "all_stages": "true: every stage always runs, bounds are ignored",
    "together": "the ensemble of all stages up to the first without one, asked in their place where all are asked",
    "pool": "P = sigmoid(alpha * S + beta)",
    "agreement": "of the box and scene members on one side of 0.5; fewer means: escalate",
    "fusion": "of the boxes that are drawn",
    "stages": "in the order they are asked",
    "absent_tiers": "or refuse: a tier without a folder stops the load",
    "budget": "of a request, where the caller names none; null: no limit",
    "routes": "after the stages, where nothing has ended the cascade: the first whose condition holds",
    "tiers": "asked only by a route; their order means nothing",
}


class _Dumper(yaml.SafeDumper):
    """Mappings of plain values on one line, the others over several."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent(dumper: _Dumper, data: dict[str, Any]) -> yaml.MappingNode:
    flat = not any(isinstance(value, (dict, list)) for value in data.values())
    return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=flat)


class _Row(list[Any]):
    """A list on one line."""


_Dumper.add_representer(dict, _represent)
_Dumper.add_representer(
    _Row, lambda dumper, row: dumper.represent_sequence("tag:yaml.org,2002:seq", row, flow_style=True)
)


class _Indented(_Dumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def policy_text(data: dict[str, Any]) -> str:
    """YAML of a policy given as plain dicts and lists; it loads back to the same."""
    lines = [HEADER]
    if "routes" in data:
        data = {**data, "routes": [{**route, "climb": _Row(route["climb"])} for route in data["routes"]]}
    for key, value in data.items():
        # Dumped a key at a time, as PyYAML has no comments.
        text = yaml.dump({key: value}, Dumper=_Indented, sort_keys=False, allow_unicode=True, width=10_000)
        if text.startswith("{"):
            text = text[1:].rstrip("\n").removesuffix("}") + "\n"
        if key in COMMENTS:
            first, _, rest = text.partition("\n")
            text = f"{first}  # {COMMENTS[key]}\n{rest}"
        lines.append(text)
    return "".join(lines)
