"""A BentoML service, started by `bentoml serve`.

As BentoML's pages have it: the models are opened in the constructor of a class with `@bentoml.service` ("Create online
API Services"), each worker is a process with its own copy ("Configure workers"), a synchronous API runs in `threads` of
the worker ("Services"), and the image is a root input, so that the body is the file itself ("Input and output types").

Settings: `workers` processes with `threads` images at a time each; `parallel` 1 asks the networks at the same time.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

from roadwork_bench.peers_apps.looking import Looker, read_job

JOB = read_job()


@bentoml.service(
    workers=JOB.settings["workers"],
    threads=JOB.settings["threads"],
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    http={"host": "127.0.0.1", "port": JOB.port},
)
class Peer:
    """One of these lives in every worker."""

    def __init__(self) -> None:
        self._looker = Looker(JOB.repository, JOB.threads)
        several = len(JOB.threads) * JOB.settings["threads"]
        self._executor = ThreadPoolExecutor(several) if JOB.settings.get("parallel") else None

    @bentoml.api(route="/predict")
    def predict(self, image: Annotated[bytes, ContentType("application/octet-stream")], /) -> dict[str, Any]:
        try:
            return self._looker.look(image, self._executor)
        except ValueError as error:
            raise bentoml.exceptions.InvalidArgument(str(error)) from None
