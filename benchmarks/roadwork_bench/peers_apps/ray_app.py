"""Ray Serve, as one deployment or as a composition of one deployment a step.

As Ray's pages have it: a deployment opens its models in the constructor and is scaled by `num_replicas`, each of them a
process ("Key Concepts"); steps that are to run at the same time are deployments of their own, which the ingress calls
through `DeploymentHandle`s and waits for together ("Deploy Compositions of Models"). HTTP comes in by Ray's own proxy.

Settings: `replicas` of the whole, or of the ingress where `composed` is 1; `threads`: images at a time of a replica.
"""

import asyncio
import os
import signal
import threading
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse

from roadwork_bench.peers_apps.looking import Arrays, Consensus, Decoder, Job, Looker, Network, read_job

ONGOING = 100
"""Requests that a replica may hold: with as many as it works on, the others would wait in routers, which ask again and
again for a replica that is free."""


OBJECTS = 200 << 20
"""Bytes of shared memory: a canvas has 1.2 MB."""


class Whole:
    """Everything in one replica."""

    def __init__(self, job: Job) -> None:
        self._looker = Looker(job.repository, job.threads)
        self._slots = asyncio.Semaphore(job.settings["threads"])

    async def __call__(self, request: Request) -> Any:
        image = await request.body()
        try:
            async with self._slots:
                return await asyncio.get_running_loop().run_in_executor(None, self._looker.look, image)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)


class Detector:
    """One network, `threads` canvases at a time; the rest waits here, not in the caller's router."""

    def __init__(self, job: Job, name: str) -> None:
        self._network = Network(job.repository, name, job.threads[name])
        self._slots = asyncio.Semaphore(job.settings["threads"])

    async def ask(self, canvas: np.ndarray) -> Arrays:
        async with self._slots:
            return await asyncio.get_running_loop().run_in_executor(None, self._network.ask, canvas)


class Ingress:
    """Decodes, asks every network at the same time, and concludes."""

    def __init__(self, job: Job, networks: dict[str, DeploymentHandle]) -> None:
        self._decoder, self._consensus = Decoder(job.repository), Consensus(job.repository)
        self._networks = networks

    async def __call__(self, request: Request) -> Any:
        image = await request.body()
        loop = asyncio.get_running_loop()
        try:
            canvas, geometry = await loop.run_in_executor(None, self._decoder.decode, image)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        waiting = [handle.ask.remote(canvas) for handle in self._networks.values()]
        arrays = dict(zip(self._networks, await asyncio.gather(*waiting), strict=True))
        return await loop.run_in_executor(None, self._consensus.conclude, canvas, geometry, arrays)


def application(job: Job) -> Any:
    """What `serve.run` takes."""
    # Ray counts logical cores and would not place what asks for more than there are; the kernel shares the real ones.
    options = {"num_replicas": job.settings["replicas"], "ray_actor_options": {"num_cpus": 0.01}}
    if not job.settings.get("composed"):
        return serve.deployment(Whole).options(max_ongoing_requests=ONGOING, **options).bind(job)
    single = {**options, "num_replicas": 1, "max_ongoing_requests": ONGOING}
    networks = {name: serve.deployment(Detector).options(name=name, **single).bind(job, name) for name in job.threads}
    return serve.deployment(Ingress).options(max_ongoing_requests=ONGOING, **options).bind(job, networks)


def main() -> None:
    job = read_job()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # What it writes goes where the job is, which is removed with it.
    here = {"_node_ip_address": "127.0.0.1", "_temp_dir": os.getcwd()}
    ray.init(include_dashboard=False, configure_logging=False, object_store_memory=OBJECTS, **here)
    serve.start(http_options={"host": "127.0.0.1", "port": job.port}, logging_config={"enable_access_log": False})
    serve.run(application(job), route_prefix="/predict")
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
