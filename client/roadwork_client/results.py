"""One image's outcome in a series: a value, so that one bad image does not end the others."""

from __future__ import annotations

from dataclasses import dataclass

from roadwork_client.errors import RoadworkError
from roadwork_client.images import ImageLike
from roadwork_client.verdict import Verdict


@dataclass(frozen=True)
class Result:
    """The image as the caller gave it, and either its verdict or the error; never both, never neither."""

    index: int
    image: ImageLike
    verdict: Verdict | None = None
    error: RoadworkError | None = None

    def unwrap(self) -> Verdict:
        """The verdict, or raise the error."""
        if self.error is not None:
            raise self.error
        assert self.verdict is not None
        return self.verdict
