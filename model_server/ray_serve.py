"""The model server on several devices, as a Ray Serve application: `python -m model_server.ray_serve`.

Each replica is the single model server's app with its engine, on a device of its own. A request passes Ray's own
HTTP proxy, which listens at MODEL_SERVER_URL's port on every machine with a replica or with a proxy of ours, then
our proxy (`model_server/ray_proxy.py`), then a replica. The HTTP API is that of a single model server.

Without RAY_ADDRESS this command starts a cluster on this machine, which ends with this process. With RAY_ADDRESS
it deploys the application to that cluster and ends; the application stays, and running the command again is a
rolling update. `serve run model_server.ray_serve:application` and Ray's config files work too.
"""

import logging
import math
import signal
import threading

import ray
from ray import serve
from ray.serve import Application

from lorabel import logs
from lorabel.errors import SettingsError
from lorabel.settings import Settings
from model_server.ray_proxy import Proxy
from model_server.ray_replica import MAX_ONGOING, Replica
from model_server.ray_router import AdapterRouter

log = logging.getLogger(__name__)

NAME = "lorabel"
MAX_ONGOING_PER_PROXY = 4096
REPLICAS_PER_PROXY = 3
MIN_PROXIES = 2
# A replica that is removed first answers the requests that it has. Label Studio waits 100 s for a prediction.
GRACEFUL_SHUTDOWN_S = 100.0
HEALTH_CHECK_S = 5.0


def build(settings: Settings, *, has_gpus: bool, machines: int) -> Application:
    """Build the application: a deployment of replicas, and our proxies in front of it.

    Args:
        has_gpus: whether the cluster has GPUs; DEVICE=auto then gives each replica
            REPLICA_GPUS of one.
        machines: how many machines the cluster has. Each gets at most its share of our proxies. They need no
            resource that Ray counts, so Ray could place all of them on one machine, and if that machine died, all
            others would answer 500.

    Raises:
        SettingsError: DEVICE is not auto, cpu or cuda. Ray assigns the GPUs, so none can be named.
    """
    if settings.device not in ("auto", "cpu", "cuda"):
        raise SettingsError(f"DEVICE={settings.device!r}, but Ray gives out the devices: set auto, cpu or cuda")
    is_on_gpu = settings.device == "cuda" or (settings.device == "auto" and has_gpus)
    replicas = serve.deployment(
        Replica,
        name="replica",
        ray_actor_options={
            "num_gpus": settings.replica_gpus if is_on_gpu else 0,
            "num_cpus": settings.replica_cpus,
        },
        autoscaling_config={
            "min_replicas": settings.replicas_min,
            "initial_replicas": settings.replicas_min,
            "max_replicas": max(settings.replicas_min, settings.replicas_max),
            "target_ongoing_requests": settings.replica_requests,
        },
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=settings.max_waiting,
        graceful_shutdown_timeout_s=GRACEFUL_SHUTDOWN_S,
        health_check_period_s=HEALTH_CHECK_S,
        request_router_config={"request_router_class": AdapterRouter},
        logging_config={"enable_access_log": False},
    )
    proxy_count = max(MIN_PROXIES, settings.replicas_max // REPLICAS_PER_PROXY)
    proxies = serve.deployment(
        Proxy,
        name="proxy",
        num_replicas=proxy_count,
        max_replicas_per_node=math.ceil(proxy_count / machines) if machines > 1 else None,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=MAX_ONGOING_PER_PROXY,
        graceful_shutdown_timeout_s=GRACEFUL_SHUTDOWN_S,
        logging_config={"enable_access_log": False},
    )
    return proxies.bind(replicas.bind(settings), settings)


def application(_: dict[str, str]) -> Application:
    """Build the application for `serve run` and Ray's config files, with the deploying process's settings."""
    return build(Settings(), has_gpus=_has_gpus(), machines=_machines())


def deploy(settings: Settings) -> None:
    """Start or update the application on the cluster that Ray is connected to, and wait until it serves."""
    serve.start(
        proxy_location="EveryNode",
        http_options={"host": settings.model_server_host, "port": settings.model_server_port},
        logging_config={"enable_access_log": False},
    )
    serve.run(build(settings, has_gpus=_has_gpus(), machines=_machines()), name=NAME, route_prefix="/")


def main() -> None:
    """Deploy the application. With a cluster of its own, keep it running until SIGINT or SIGTERM."""
    settings = Settings()
    logs.configure(settings)
    if settings.model_server_tls_certificate is not None:
        raise SettingsError(
            "Ray's proxies speak plain HTTP here; unset MODEL_SERVER_TLS_CERTIFICATE, and put a proxy with the "
            "certificate in front of them"
        )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if settings.ray_address is None:
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
    else:
        ray.init(address=settings.ray_address, log_to_driver=False)
    deploy(settings)
    log.info("serving at %s", settings.model_server_url)
    if settings.ray_address is None:
        stop.wait()
        serve.shutdown()
    ray.shutdown()


def _has_gpus() -> bool:
    return bool(ray.cluster_resources().get("GPU"))


def _machines() -> int:
    return sum(node["Alive"] for node in ray.nodes())


if __name__ == "__main__":
    main()
