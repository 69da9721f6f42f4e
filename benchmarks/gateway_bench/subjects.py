"""The gateways that are measured, each started fresh for a case; ``direct`` is the stub alone."""

import contextlib
import getpass
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gateway_bench import peers, watch
from gateway_bench.eventlog import EventLog
from gateway_bench.load import Call
from gateway_bench.measure import DIRECT
from gateway_bench.payload import MODEL, request_body
from gateway_bench.processes import Cores, await_answer, http, post_json, spawned
from leyden_local.ports import HOST, free_ports

ROLLOUTS = 100


@dataclass(frozen=True, slots=True)
class Site:
    """Where a subject is started: before which upstream, on which cores, with which folder for its files."""

    upstream_port: int
    cores: Cores
    folder: Path

    @property
    def upstream(self) -> str:
        """Base URL of the stub."""
        return f"http://{HOST}:{self.upstream_port}"


@dataclass(frozen=True, slots=True)
class Running:
    """A subject that answers."""

    port: int
    calls: list[Call]
    pids: dict[str, list[int]] = field(default_factory=dict)
    log: EventLog | None = None
    """Where it records, if it does."""


class Subject(Protocol):
    """Something between the load generator and the stub."""

    name: str
    streams: bool

    def unavailable(self) -> str | None:
        """Why it cannot be measured here, or None."""
        ...

    def running(self, site: Site) -> contextlib.AbstractContextManager[Running]:
        """Run it until the block ends. Raises ``DidNotStart``."""
        ...


class Direct:
    """The load generator straight to the stub."""

    name, streams = DIRECT, True

    def unavailable(self) -> None:
        """Always there."""

    @contextlib.contextmanager
    def running(self, site: Site) -> Iterator[Running]:
        """Nothing to start."""
        yield Running(site.upstream_port, [Call("/v1/chat/completions")])


class Nginx:
    """nginx with ``proxy_pass``: what a proxy costs that looks at nothing."""

    name, streams = "nginx", True

    def unavailable(self) -> str | None:
        """Whether there is an nginx."""
        return _why_not(peers.nginx)

    @contextlib.contextmanager
    def running(self, site: Site) -> Iterator[Running]:
        """One worker, kept-alive connections to the stub, streams not buffered."""
        (port,) = free_ports(1)
        config, log = site.folder / "nginx.conf", site.folder / "nginx.log"
        config.write_text(nginx_config(port, site.upstream_port, site.folder))
        command = [peers.nginx(), "-e", "stderr", "-p", site.folder, "-c", config]
        call = Call("/v1/chat/completions")
        with spawned(command, cores=site.cores.subject, log=log) as process:
            await_answer(process, log, lambda: answers(port, call))
            yield Running(port, [call], {"subject": watch.tree(process.pid)})


def nginx_config(port: int, upstream_port: int, folder: Path) -> str:
    """A configuration that keeps every file in ``folder``."""
    user = "user root;" if getpass.getuser() == "root" else ""
    temporary = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 16384; }}
http {{
{temporary}  access_log off;
  keepalive_requests 100000000;
  upstream stub {{ server {HOST}:{upstream_port}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen {HOST}:{port} backlog=4096;
    location / {{
      proxy_pass http://stub;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


class LiteLlm:
    """LiteLLM's proxy server with one worker, logging nothing."""

    name, streams = "litellm", True

    def __init__(self, *, install: bool) -> None:
        self._install = install

    def unavailable(self) -> str | None:
        """Whether it is installed, or can be."""
        return _why_not(lambda: peers.ensure(peers.LITELLM, install=self._install))

    @contextlib.contextmanager
    def running(self, site: Site) -> Iterator[Running]:
        """No keys and no database: the least it can do."""
        (port,) = free_ports(1)
        config, log = site.folder / "litellm.yaml", site.folder / "litellm.log"
        config.write_text(litellm_config(site.upstream))
        command = [peers.LITELLM.executable, "--config", config, "--host", HOST, "--port", str(port)]
        env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
        call = Call("/v1/chat/completions")
        with spawned(
            [*command, "--telemetry", "False"], cores=site.cores.subject, log=log, env=env
        ) as process:
            await_answer(process, log, lambda: answers(port, call))
            yield Running(port, [call], {"subject": watch.tree(process.pid)})


def litellm_config(upstream: str) -> str:
    """The stub as an OpenAI-compatible server."""
    return f"""model_list:
  - model_name: "{MODEL}"
    litellm_params: {{model: "openai/{MODEL}", api_base: "{upstream}/v1", api_key: none}}
"""


class AgentLightning:
    """Agent Lightning's gateway, keeping events in memory as it does. It refuses streams."""

    name, streams = "agentlightning", False

    def __init__(self, *, install: bool) -> None:
        self._install = install

    def unavailable(self) -> str | None:
        """Whether it is installed, or can be."""
        return _why_not(lambda: peers.ensure(peers.AGENT_LIGHTNING, install=self._install))

    @contextlib.contextmanager
    def running(self, site: Site) -> Iterator[Running]:
        """Its server with the stub registered as model, and a few rollouts to record under."""
        (port,) = free_ports(1)
        log = site.folder / "agentlightning.log"
        overrides = [f"host={HOST}", f"port={port}", f"default_proxy.model_name='{MODEL}'"]
        hydra = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=disabled"]
        command = [peers.AGENT_LIGHTNING.executable, *overrides, *hydra]
        with spawned(command, cores=site.cores.subject, log=log, cwd=site.folder) as process:
            await_answer(process, log, lambda: http(f"http://{HOST}:{port}/healthz")[0] == 200)
            api = f"http://{HOST}:{port}/api"
            post_json(f"{api}/models", [{"model": MODEL, "endpoint": f"{site.upstream}/v1", "version": 1}])
            names = [f"rollout-{number}" for number in range(ROLLOUTS)]
            post_json(f"{api}/rollouts", [{"rollout_id": name, "input": {}} for name in names])
            calls = [
                Call(f"/proxy/rollout/{name}/attempt/0/mode/train/openai/v1/chat/completions")
                for name in names
            ]
            await_answer(process, log, lambda: answers(port, calls[0]))
            yield Running(port, calls, {"subject": watch.tree(process.pid)})


def answers(port: int, call: Call) -> bool:
    """Whether a completion comes back."""
    body = request_body(streamed=False)
    return http(f"http://{HOST}:{port}{call.path}", body, token=call.token)[0] == 200


def _why_not(look: Callable[[], object]) -> str | None:
    try:
        look()
    except peers.CannotInstall as reason:
        return str(reason)
    return None
