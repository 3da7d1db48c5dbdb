"""Models of transformers: from a hub id, a folder, or their configuration and a seed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .errors import LicenceError, WeightsError, first_line
from .family import Weights
from .random_weights import seeded


def open_pretrained(model_class: Any, config: Any, weights: Weights, name: str) -> Any:
    """A model of transformers in evaluation mode, float32, on the CPU.

    `config` is that of the real architecture for random weights; with a source, the source's own is used.

    Raises:
        WeightsError: not there, not to be fetched, of another architecture, or incomplete.
        LicenceError: its publisher wants an agreement first.
    """
    if weights.source is None:
        with seeded(weights.seed):
            return model_class(config).float().eval()
    with fetching(weights.source):
        own = config_of(weights.source, config, name)
        found, report = model_class.from_pretrained(
            weights.source, config=own, output_loading_info=True, dtype=torch.float32
        )
    missing = sorted(report["missing_keys"]) + sorted(str(k) for k in report.get("mismatched_keys", ()))
    if missing:
        raise WeightsError(
            f"{weights.source}: not weights of {name}: {len(missing)} tensors are missing or of another shape, "
            f"first {missing[0]}"
        )
    return found.eval()


def config_of(source: str, like: Any, name: str) -> Any:
    """The configuration at `source`. Raises WeightsError where it is not of the type of `like`."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source)
    if config.model_type != like.model_type:
        raise WeightsError(f"{source}: a model of type {config.model_type!r}; {name} is {like.model_type!r}")
    return config


def open_processor(processor_class: Any, weights: Weights, **settings: Any) -> Any:
    """The image processor that comes with the weights, else one with these settings, its published ones.

    Raises:
        WeightsError: the source has none.
    """
    if weights.source is None:
        return processor_class(**settings)
    with fetching(weights.source):
        return processor_class.from_pretrained(weights.source)


@contextlib.contextmanager
def fetching(source: str) -> Iterator[None]:
    """Turn what transformers and the hub raise into one clear line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    local = Path(source).exists()
    if not local and (source.startswith((".", "/", "~")) or source.count("/") != 1):
        raise WeightsError(f"{source}: no such file or folder, and not a hub id (owner/name)")
    try:
        yield
    except WeightsError:
        raise
    except GatedRepoError:
        raise LicenceError(
            f"{source}: its publisher wants you to accept its licence at https://huggingface.co/{source} first, then "
            "to log in with: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise WeightsError(f"{source}: no such model on the hub") from None
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        reason = first_line(error)
        if local:
            raise WeightsError(f"{source}: cannot be read: {reason}") from error
        raise WeightsError(
            f"{source}: cannot be fetched from the hub ({reason}). Without a network, give --weights a folder that "
            "holds the model, or --random-weights for the architecture alone"
        ) from error
