"""Errors that `roadwork-deploy` answers with one line and exit status 2."""

from __future__ import annotations


class DeployError(Exception):
    """Something that the person who starts the server can put right; the message says what and how."""


class PlatformError(DeployError):
    """The machine, the Python or the installed packages cannot run the embedded server."""


class PortTakenError(DeployError):
    """A port is in use by another program."""


class ProfileError(DeployError):
    """A profile is unknown or malformed; the message names the field."""


class RepositoryError(DeployError):
    """The model repository lacks something or is not as the profiles and folders say."""


class PlanError(DeployError):
    """What was asked of the planner does not exist, cannot be served or does not fit; the message says by how much."""


class StartError(DeployError):
    """tritonserver did not come up: a model failed to load, a probe failed, or time ran out."""
