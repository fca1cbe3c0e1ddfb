"""The model server on several devices, as a Ray Serve application: `python -m model_server.ray_serve`.

Each replica is the single model server's app with its engine, on a device of its own. Proxies
(`model_server/ray_proxy.py`) speak HTTP at MODEL_SERVER_URL's port on every machine that has one, so a backend
finds there what it finds at a single model server.

Without RAY_ADDRESS a cluster of this machine is started, and ends with this process. With it the application is
put on that cluster and stays there; running the command again is the rolling update. `serve run
model_server.ray_serve:application` and Ray's config files work too.
"""

import logging
import math
import signal
import threading
from urllib.parse import urlsplit

import ray
from ray import serve
from ray.serve import Application

from lorabel import logs
from lorabel.errors import SettingsError
from lorabel.settings import Settings
from model_server.ray_proxy import Proxy
from model_server.ray_replica import MOST_ONGOING, Replica
from model_server.ray_router import AdapterRouter

log = logging.getLogger(__name__)

NAME = "lorabel"
MOST_ONGOING_PER_FRONT = 4096
REPLICAS_PER_PROXY = 8
FEWEST_PROXIES = 2
# A replica that leaves answers first what it has taken; nobody waits longer than Label Studio does.
GRACEFUL_SHUTDOWN_S = 100.0
HEALTH_CHECK_S = 5.0


def build(settings: Settings, *, has_gpus: bool, machines: int) -> Application:
    """Proxies and replicas, as the settings say.

    Args:
        machines: in the cluster. None gets more than its share of the proxies: they need nothing that Ray counts,
            so it may put all on one machine, and with that one's death every machine would answer 500.

    Raises:
        SettingsError: a device that Ray cannot give out.
    """
    if settings.device not in ("auto", "cpu", "cuda"):
        raise SettingsError(f"DEVICE={settings.device!r}, but Ray gives out the devices: set auto, cpu or cuda")
    is_on_gpu = settings.device == "cuda" or (settings.device == "auto" and has_gpus)
    replicas = serve.deployment(
        Replica,
        name="replica",
        ray_actor_options={"num_gpus": 1 if is_on_gpu else 0, "num_cpus": settings.replica_cpus},
        autoscaling_config={
            "min_replicas": settings.replicas_min,
            "initial_replicas": settings.replicas_min,
            "max_replicas": max(settings.replicas_min, settings.replicas_max),
            "target_ongoing_requests": settings.replica_requests,
        },
        max_ongoing_requests=MOST_ONGOING,
        max_queued_requests=settings.max_waiting,
        graceful_shutdown_timeout_s=GRACEFUL_SHUTDOWN_S,
        health_check_period_s=HEALTH_CHECK_S,
        request_router_config={"request_router_class": AdapterRouter},
        logging_config={"enable_access_log": False},
    )
    proxy_count = max(FEWEST_PROXIES, settings.replicas_max // REPLICAS_PER_PROXY)
    proxies = serve.deployment(
        Proxy,
        name="proxy",
        num_replicas=proxy_count,
        max_replicas_per_node=math.ceil(proxy_count / machines) if machines > 1 else None,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=MOST_ONGOING_PER_FRONT,
        graceful_shutdown_timeout_s=GRACEFUL_SHUTDOWN_S,
        logging_config={"enable_access_log": False},
    )
    return proxies.bind(replicas.bind(settings), settings)


def application(_: dict[str, str]) -> Application:
    """For `serve run` and Ray's config files; the settings are those of the process that deploys."""
    return build(Settings(), has_gpus=_has_gpus(), machines=_machines())


def deploy(settings: Settings) -> None:
    """Start the application on the cluster that Ray is connected to, or update it, and wait until it serves."""
    port = urlsplit(settings.model_server_url).port or 80
    serve.start(
        proxy_location="EveryNode",
        http_options={"host": settings.model_server_host, "port": port},
        logging_config={"enable_access_log": False},
    )
    serve.run(build(settings, has_gpus=_has_gpus(), machines=_machines()), name=NAME, route_prefix="/")


def main() -> None:
    settings = Settings()
    logs.configure(settings)
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
