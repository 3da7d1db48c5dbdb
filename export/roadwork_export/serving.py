"""What a model needs to be served by vLLM: the sizes that memory is computed from, its checkpoints, its settings.

The planner reads nothing else of a model. `catalogue.yaml` has the numbers; nothing here imports a network's library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any

from roadwork_cascade.schema_check import shown

from .catalogue_fields import Fields, known_fields

CHECKPOINTS = ("bf16", "fp8", "awq", "gptq", "w8a8", "fp4")
"""Precisions in which weights are published."""
ONLINE = ("fp8", "int8")
"""Precisions that vLLM makes of bf16 weights while it loads them."""
PROMPTS = ("scorer", "reasoner", "words")


@dataclass(frozen=True)
class TextModel:
    """Sizes of the language model.

    Attributes:
        kv_layers: layers whose cache grows with the context; hybrids such as Qwen3.5 have fewer than `layers`.
        experts: of a layer; 0: dense.
        latent: width of the compressed cache of a token and layer (multi-head latent attention), else 0.
        tied: the word embeddings are the head too.
        expert_layers: layers that have experts, the others are dense; 0 becomes `layers` where there are experts.
        shared_expert: width of what every token passes beside its experts.
        gated: attention has an output gate, which makes its queries twice as wide.
        linear_keys, linear_values: widths of keys (and queries) and of values (and gates) of the layers without a cache
            that grows, else 0.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    kv_layers: int
    experts: int = 0
    active_experts: int = 0
    expert_intermediate: int = 0
    latent: int = 0
    tied: bool = False
    expert_layers: int = 0
    shared_expert: int = 0
    gated: bool = False
    linear_keys: int = 0
    linear_values: int = 0

    def __post_init__(self) -> None:
        if self.experts and not self.expert_layers:
            object.__setattr__(self, "expert_layers", self.layers)

    def counted(self) -> float:
        """Parameters, in 1e9: the matrices of the transformer, without biases, norms and convolutions.

        With h hidden, d head width, n heads and k key-value heads: attention h·d·(2n + 2k), one more h·d·n where it is
        gated; a layer without a growing cache h·(2·keys + 3·values); a dense network behind it 3·h·intermediate (gate,
        up, down), one with experts 3·h·(experts·expert width + shared width) + h·experts for the router; words
        vocabulary·h, twice where the head is not tied. The shapes are those of transformers' `modeling_qwen3_vl.py`,
        `modeling_qwen3_vl_moe.py` and `modeling_qwen3_5.py`.
        """
        h = self.hidden
        attention = h * self.head_dim * (2 * self.heads + 2 * self.kv_heads + self.heads * self.gated)
        linear = h * (2 * self.linear_keys + 3 * self.linear_values)
        dense = 3 * h * self.intermediate
        experts = 3 * h * (self.experts * self.expert_intermediate + self.shared_expert) + h * self.experts
        total = self.kv_layers * attention + (self.layers - self.kv_layers) * linear
        total += (self.layers - self.expert_layers) * dense + self.expert_layers * experts
        return (total + self.vocabulary * h * (1 if self.tied else 2)) / 1e9


@dataclass(frozen=True)
class VisionModel:
    """Sizes of the vision encoder.

    Attributes:
        params: of the encoder and of what joins it to the language model, in 1e9.
        patch: pixels of a patch's side.
        merge: patches that become one token, a side.
    """

    params: float
    layers: int
    hidden: int
    heads: int
    intermediate: int
    patch: int
    merge: int


@dataclass(frozen=True)
class Serving:
    """How vLLM serves a model.

    Attributes:
        architecture: vLLM's class.
        remote_code: the publisher's own Python has to be run.
        params: in 1e9.
        context: longest context in tokens (`max_position_embeddings`).
        text, vision: None where the sizes are not known; the planner refuses such a model for that reason.
        checkpoints: precision of `CHECKPOINTS` -> hub id of published weights.
        online: precisions of `ONLINE` that work on the bf16 weights.
        settings: engine arguments that this model always needs.
        prompt: kind of prompt.json, of `PROMPTS`.
        price: US dollars a million tokens, a guess for policies that have not measured theirs; None: no guess.
        verified: where the numbers come from.
        other: parameters that are neither text nor vision, such as an audio encoder, in 1e9.
    """

    architecture: str
    remote_code: bool
    params: float
    context: int
    text: TextModel | None
    vision: VisionModel | None
    checkpoints: Mapping[str, str]
    online: tuple[str, ...]
    settings: Mapping[str, Any]
    prompt: str
    price: float | None
    verified: str
    other: float = 0.0

    def counted(self) -> float:
        """Parameters computed from the sizes, in 1e9: text (see `TextModel.counted`), vision and other.

        Raises:
            ValueError: the sizes of text or vision are not known.
        """
        if self.text is None or self.vision is None:
            raise ValueError(f"{self.architecture}: sizes of text and vision are not known")
        return self.text.counted() + self.vision.params + self.other


def read_serving(take: Fields, data: Mapping[str, Any], role: str, parameters: float | None) -> Serving:
    """Check the field `serving` of an entry.

    Args:
        take: the entry's fields; errors are theirs.
        data: the field's content.
        role: of the entry, which is the kind of its prompt.
        parameters: of the entry.

    Raises:
        CatalogueError: for the first thing that is wrong.
    """
    known_fields(f"{take.where}: serving", dict(data), tuple(f.name for f in fields(Serving)))
    inner = Fields(take.where, {f"serving.{key}": value for key, value in data.items()})
    architecture = inner.text("serving.architecture")
    remote_code = inner.flag("serving.remote_code", required=True)
    params = inner.number("serving.params", inner.take("serving.params"))
    if parameters is None or abs(params * 1e9 / parameters - 1) > 0.01:
        raise inner.wrong("serving.params", f"must be parameters in 1e9, got {params:g} for {parameters!r}")
    checkpoints = inner.mapping("serving.checkpoints")
    for precision, hub_id in checkpoints.items():
        _one_of(inner, "serving.checkpoints", precision, CHECKPOINTS)
        if not isinstance(hub_id, str) or not hub_id.strip():
            raise inner.wrong(f"serving.checkpoints.{precision}", f"must be a hub id, got {shown(hub_id)}")
    online = inner.texts("serving.online")
    for precision in online:
        _one_of(inner, "serving.online", precision, ONLINE)
    price = inner.take("serving.price", required=False)
    return Serving(
        architecture=architecture,
        remote_code=remote_code,
        params=params,
        context=_whole(inner, "serving.context", inner.take("serving.context")),
        text=_text(inner),
        vision=_vision(inner),
        checkpoints=MappingProxyType(checkpoints),
        online=online,
        settings=MappingProxyType(inner.mapping("serving.settings")),
        prompt=role if role in PROMPTS else "scorer",
        price=None if price is None else inner.number("serving.price", price),
        verified=inner.text("serving.verified"),
        other=inner.number("serving.other", data.get("other", 0), zero=True),
    )


def _text(take: Fields) -> TextModel | None:
    found = _sizes(take, "serving.text", TextModel)
    if found is None:
        return None
    model = TextModel(**found)
    problems = (
        (model.heads % max(model.kv_heads, 1) != 0, "kv_heads", f"must divide heads {model.heads}"),
        (model.kv_layers > model.layers, "kv_layers", f"must be at most layers {model.layers}"),
        (model.expert_layers > model.layers, "expert_layers", f"must be at most layers {model.layers}"),
        (model.active_experts > model.experts, "active_experts", f"must be at most experts {model.experts}"),
        (bool(model.experts) != bool(model.expert_intermediate), "expert_intermediate", "goes with experts"),
    )
    for wrong, name, problem in problems:
        if wrong:
            raise take.wrong(f"serving.text.{name}", f"{problem}, got {getattr(model, name)}")
    return model


def _vision(take: Fields) -> VisionModel | None:
    found = _sizes(take, "serving.vision", VisionModel)
    return None if found is None else VisionModel(**found)


def _sizes(take: Fields, at: str, kind: type[TextModel] | type[VisionModel]) -> dict[str, Any] | None:
    """The fields of a dataclass of sizes; None where there are none. Those without a default must be there."""
    values = take.mapping(at)
    if not values:
        return None
    wanted = fields(kind)
    known_fields(f"{take.where}: {at}", values, tuple(f.name for f in wanted))
    found: dict[str, Any] = {}
    for each in wanted:
        name = f"{at}.{each.name}"
        if each.name not in values:
            if each.default is MISSING:
                raise take.wrong(name, "is missing")
            continue
        found[each.name] = _READERS[str(each.type)](take, name, values[each.name], each.default is not MISSING)
    return found


def _whole(take: Fields, name: str, value: Any, zero: bool = False) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < (0 if zero else 1):
        raise take.wrong(name, f"must be a whole number of at least {0 if zero else 1}, got {shown(value)}")
    return value


def _flag(take: Fields, name: str, value: Any, zero: bool = False) -> bool:
    if not isinstance(value, bool):
        raise take.wrong(name, f"must be true or false, got {shown(value)}")
    return value


def _number(take: Fields, name: str, value: Any, zero: bool = False) -> float:
    return take.number(name, value, zero=zero)


_READERS: dict[str, Callable[[Fields, str, Any, bool], Any]] = {"int": _whole, "bool": _flag, "float": _number}


def _one_of(take: Fields, name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise take.wrong(name, f"must be of {', '.join(choices)}, got {shown(value)}")
