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
