"""What can go wrong between a name and a folder of the model repository."""

from __future__ import annotations


class ExportError(ValueError):
    """A model cannot be exported as asked; the message says what to do."""


class WeightsError(ExportError):
    """The weights are not there, cannot be fetched, or are another model's."""


class LicenceError(ExportError):
    """The licence has to be accepted first."""


class CheckError(ExportError):
    """A check cannot be made: there is nothing to compare."""


def first_line(error: Exception) -> str:
    """The first line of what a library raised, or the kind of its error where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def cannot_fetch(source: str, why: str, what: str) -> WeightsError:
    """`source` is somewhere on the network and did not come; `what` can be given by its path instead."""
    return WeightsError(
        f"{source}: cannot be fetched ({why}). Without a network, give --weights {what}, or --random-weights for the "
        "architecture alone"
    )
