"""The chart through the real Helm, Kubernetes' own schemas, and the services' real settings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

pytestmark = pytest.mark.timeout(360)

CHART = Path("deploy/helm/leyden")
VALUES = ("minimal", "production", "serving-only", "vllm")
SERVICES = ("gateway", "runner", "reward", "credit", "registry", "learner", "inference")
KUBERNETES = "1.33"
SECRETS = {
    "LEYDEN_DATABASE_URL": "postgresql+asyncpg://leyden:secret@postgres:5432/leyden",
    "LEYDEN_TOKEN_SECRET": "0123456789abcdef0123456789abcdef",
    "LEYDEN_KAFKA_SASL_USERNAME": "leyden",
    "LEYDEN_KAFKA_SASL_PASSWORD": "secret",
    "LEYDEN_GATEWAY_ADMIN_TOKEN": "0123456789abcdef",
    "GATEWAY_API_KEY_0": "batch-0123456789",
    "GATEWAY_API_KEY_1": "shop-0123456789",
    "GATEWAY_EXTERNAL_KEY_1": "judge-0123456789",
}
Resource = dict[str, Any]


@pytest.fixture(scope="session")
def render(output: Callable[..., str], helm: Path) -> Callable[..., str]:
    """The manifests of one values file, with values set beside it."""

    def run(values: str, *arguments: str) -> str:
        file = CHART / "ci" / f"{values}-values.yaml"
        return output(helm, "template", "rel", CHART, "--namespace", "agents", "-f", file, *arguments)

    return run


@pytest.fixture(scope="session")
def rendered(render: Callable[..., str]) -> dict[str, list[Resource]]:
    """Every resource of every values file."""
    return {values: [*_resources(render(values))] for values in VALUES}


def _resources(text: str) -> list[Resource]:
    return [resource for resource in yaml.safe_load_all(text) if resource]


def find(resources: list[Resource], kind: str, name: str = "") -> Resource:
    """The one resource of a kind whose name ends like this."""
    (found,) = [
        item for item in resources if item["kind"] == kind and item["metadata"]["name"].endswith(name)
    ]
    return found


def pods(resources: list[Resource]) -> dict[str, Resource]:
    """Every pod specification, by component."""
    found = {}
    for item in resources:
        if item["kind"] in {"Deployment", "StatefulSet", "Job"}:
            template = item["spec"]["template"]
            found[template["metadata"]["labels"]["app.kubernetes.io/component"]] = template["spec"]
        elif item["kind"] == "Pod":
            found["test"] = item["spec"]
    return found


def environment(resources: list[Resource], component: str) -> dict[str, str]:
    """What a component's container sees; Secrets hold what ``SECRETS`` says."""
    container = pods(resources)[component]["containers"][0]
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= next(
            item["data"]
            for item in resources
            if item["kind"] == "ConfigMap" and item["metadata"]["name"] == source["configMapRef"]["name"]
        )
    for entry in container.get("env", []):
        found[entry["name"]] = entry["value"] if "value" in entry else SECRETS.get(entry["name"], "secret")
    return found


@pytest.mark.parametrize("values", VALUES)
def test_helm_lint_accepts_the_chart(output: Callable[..., str], helm: Path, values: str) -> None:
    """Strictly: warnings are failures."""
    output(helm, "lint", "--strict", CHART, "-f", CHART / "ci" / f"{values}-values.yaml")


@pytest.mark.parametrize("values", VALUES)
def test_kubernetes_accepts_every_manifest(
    rendered: dict[str, list[Resource]], output: Callable[..., str], tmp_path: Path, values: str
) -> None:
    """Against the API's schemas, no unknown field."""
    manifest = tmp_path / "manifest.yaml"
    builtin = [
        item for item in rendered[values] if "." not in item["apiVersion"] or "k8s.io" in item["apiVersion"]
    ]
    manifest.write_text(yaml.safe_dump_all(builtin))
    printed = output("kubernetes-validate", "--strict", "-k", KUBERNETES, manifest)
    assert "WARN" not in printed


def test_custom_resources_match_their_definitions(
    rendered: dict[str, list[Resource]], output: Callable[..., str], root: Path, tmp_path: Path
) -> None:
    """All four kinds are rendered, and their schemas hold."""
    kinds = {}
    for item in rendered["production"]:
        group, _, version = item["apiVersion"].partition("/")
        schema = root / "tests/data/crds" / f"{group}_{item['kind'].lower()}_{version}.json"
        if schema.exists():
            kinds[item["kind"]] = item["apiVersion"]
            manifest = tmp_path / f"{item['kind']}.json"
            manifest.write_text(json.dumps(item))
            output("check-jsonschema", "--schemafile", schema, manifest)
    assert set(kinds) == {"ServiceMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"}


@pytest.mark.parametrize("values", VALUES)
def test_services_accept_the_environment_they_are_given(
    rendered: dict[str, list[Resource]],
    settings_types: dict[str, type[BaseSettings]],
    variables: set[str],
    values: str,
) -> None:
    """The variables make valid settings, and each is one that some service reads."""
    for service in set(pods(rendered[values])) & set(SERVICES):
        given = environment(rendered[values], service)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            settings_types[service]()
        assert {name for name in given if name.startswith("LEYDEN_")} - variables == set()


@pytest.mark.parametrize("values", VALUES)
def test_every_pod_is_hardened(rendered: dict[str, list[Resource]], values: str) -> None:
    """The restricted Pod Security Standard, and no token of the cluster's API."""
    for component, pod in pods(rendered[values]).items():
        assert pod["automountServiceAccountToken"] is False, component
        assert pod["enableServiceLinks"] is False, f"{component}: Services would overwrite settings"
        assert pod["securityContext"]["runAsNonRoot"] is True, component
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, component
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, component
            assert context["allowPrivilegeEscalation"] is False, component
            assert context["capabilities"] == {"drop": ["ALL"]}, component
            assert container["resources"]["limits"]["memory"], component


@pytest.mark.parametrize("values", VALUES)
def test_every_service_is_probed_on_its_operations_port(
    rendered: dict[str, list[Resource]], values: str
) -> None:
    """Liveness asks whether the process answers, readiness whether it can work."""
    for component, pod in pods(rendered[values]).items():
        if component in SERVICES:
            container = pod["containers"][0]
            assert container["name"] == component
            probes = {
                name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
            }
            assert {name: probe["path"] for name, probe in probes.items()} == {
                "startup": "/healthz",
                "liveness": "/healthz",
                "readiness": "/readyz",
            }
            assert {probe["port"] for probe in probes.values()} == {"ops"}
            assert {"name": "ops", "containerPort": 9100} in container["ports"]


@pytest.mark.parametrize("values", VALUES)
def test_selectors_match_pods_and_only_their_own(rendered: dict[str, list[Resource]], values: str) -> None:
    """A Service, budget or policy that selects nothing is a silent outage."""
    labels = {
        item["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: item["spec"][
            "template"
        ]["metadata"]["labels"]
        for item in rendered[values]
        if item["kind"] in {"Deployment", "StatefulSet", "Job"}
    }
    for item in rendered[values]:
        spec = item.get("spec", {})
        match item["kind"]:
            case "Service":
                selector = spec["selector"]
            case "PodDisruptionBudget" | "Deployment" | "StatefulSet":
                selector = spec["selector"]["matchLabels"]
            case "NetworkPolicy":
                selector = spec["podSelector"]["matchLabels"]
            case _:
                continue
        selected = {name for name, own in labels.items() if selector.items() <= own.items()}
        wanted = item["metadata"]["labels"].get("app.kubernetes.io/component")
        assert selected == ({wanted} if wanted else labels.keys() & set(SERVICES)), item["metadata"]["name"]


@pytest.mark.parametrize("values", VALUES)
def test_a_pod_is_killed_only_after_its_service_had_time_to_drain(
    rendered: dict[str, list[Resource]], settings_types: dict[str, type[BaseSettings]], values: str
) -> None:
    """Grace period over drain timeout plus the pause before SIGTERM."""
    for service, pod in pods(rendered[values]).items():
        if service in SERVICES:
            default = settings_types[service].model_fields["drain_timeout_s"].default
            given = environment(rendered[values], service)
            drain_s = float(given.get(f"LEYDEN_{service.upper()}_DRAIN_TIMEOUT_S", default))
            assert pod["terminationGracePeriodSeconds"] >= drain_s + 5, service


def test_secrets_stay_secrets(rendered: dict[str, list[Resource]]) -> None:
    """The chart makes none, and its ConfigMap holds none."""
    for resources in rendered.values():
        assert not [item for item in resources if item["kind"] == "Secret"]
        data = next(item["data"] for item in resources if item["kind"] == "ConfigMap" and "data" in item)
        assert not SECRETS.keys() & data.keys()


def test_the_gateway_knows_every_inference_replica_by_name(rendered: dict[str, list[Resource]]) -> None:
    """The names that a StatefulSet's headless Service gives them."""
    given = environment(rendered["production"], "gateway")["LEYDEN_GATEWAY_REPLICAS"]
    stateful = find(rendered["production"], "StatefulSet", "-inference")
    service = find(rendered["production"], "Service", "-inference")
    assert stateful["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    name = service["metadata"]["name"]
    assert json.loads(given) == [f"http://{name}-{index}.{name}:8001" for index in range(3)]


def test_vllm_stands_beside_inference_on_the_pod_s_loopback(
    rendered: dict[str, list[Resource]], root: Path
) -> None:
    """Its weights can be changed by whoever reaches it, so nobody else does; replicas know each other."""
    given = environment(rendered["vllm"], "inference")
    pod = pods(rendered["vllm"])["inference"]
    _, vllm = pod["containers"]
    assert vllm["command"] == ["vllm", "serve"]
    assert vllm["args"][0] == "/var/lib/leyden/checkpoints/base"
    assert {"--host=127.0.0.1", "--port=8100", "--enable-lora", "--max-loras=4"} <= set(vllm["args"])
    assert "ports" not in vllm
    assert json.loads(given["LEYDEN_INFERENCE_VLLM__URLS"]) == ["http://127.0.0.1:8100"]
    assert json.loads(given["LEYDEN_INFERENCE_POLICIES"]) == ["support"]
    assert (
        given["LEYDEN_INFERENCE_VLLM__PEERS"]
        == environment(rendered["vllm"], "gateway")["LEYDEN_GATEWAY_REPLICAS"]
    )
    assert vllm["resources"]["limits"]["nvidia.com/gpu"] == 1
    mounts = {mount["name"]: mount["mountPath"] for mount in vllm["volumeMounts"]}
    own = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts["checkpoints"] == own["checkpoints"], "versions lie under the same path"
    assert mounts["vllm-versions"] == own["vllm-versions"] == given["LEYDEN_INFERENCE_CACHE_DIR"]
    assert {volume["name"] for volume in pod["volumes"]} >= set(mounts)
    inside = find(rendered["vllm"], "ConfigMap", "-vllm")["data"]["leyden_vllm.py"]
    source = root / "services/inference/leyden_inference/vllm/inside/leyden_vllm.py"
    assert inside == source.read_text()
    python_path = {entry["name"]: entry["value"] for entry in vllm["env"]}["PYTHONPATH"]
    assert mounts["vllm-inside"] == python_path


def test_without_vllm_nothing_of_it_is_there(rendered: dict[str, list[Resource]]) -> None:
    """One container, and the built-in engine."""
    assert len(pods(rendered["minimal"])["inference"]["containers"]) == 1
    assert not [name for name in environment(rendered["minimal"], "inference") if "VLLM" in name]


def test_models_may_be_served_elsewhere(rendered: dict[str, list[Resource]]) -> None:
    """Then neither learner nor inference runs, and no volume is claimed."""
    resources = rendered["serving-only"]
    assert {"learner", "inference", "runner"} & set(pods(resources)) == set()
    assert json.loads(environment(resources, "gateway")["LEYDEN_GATEWAY_REPLICAS"]) == [
        "http://vllm-a:8000",
        "http://vllm-b:8000",
    ]
    assert not [item for item in resources if item["kind"] == "PersistentVolumeClaim"]


def test_the_gateway_s_keys_come_from_secrets(rendered: dict[str, list[Resource]]) -> None:
    """Callers' and external servers': the settings only name the variables."""
    given = environment(rendered["production"], "gateway")
    assert json.loads(given["LEYDEN_GATEWAY_API_KEYS"]) == {
        "batch": {"key_env": "GATEWAY_API_KEY_0", "tenant": "shop", "session": "key"},
        "shop": {"key_env": "GATEWAY_API_KEY_1", "tenant": "shop", "run": "live", "policy": "support"},
    }
    assert json.loads(given["LEYDEN_GATEWAY_EXTERNALS"]) == {
        "embedder": {"base_url": "http://embedder:8000/v1", "protocols": ["embeddings"]},
        "judge": {
            "base_url": "https://api.example.com/v1",
            "model": "large",
            "api_key_env": "GATEWAY_EXTERNAL_KEY_1",
        },
    }
    (container,) = pods(rendered["production"])["gateway"]["containers"]
    assert {
        entry["name"]: tuple(entry["valueFrom"]["secretKeyRef"].values())
        for entry in container["env"]
        if "valueFrom" in entry and "GATEWAY" in entry["name"]
    } == {
        "GATEWAY_API_KEY_0": ("shop-keys", "batch"),
        "GATEWAY_API_KEY_1": ("shop-keys", "agent"),
        "GATEWAY_EXTERNAL_KEY_1": ("judge", "key"),
        "LEYDEN_GATEWAY_ADMIN_TOKEN": ("leyden-admin", "token"),
    }
    assert not {
        name for name in environment(rendered["minimal"], "gateway") if "KEY" in name or "ADMIN" in name
    }


def test_the_gateway_s_admin_port_is_nobody_else_s(rendered: dict[str, list[Resource]]) -> None:
    """It listens on the pod's loopback, and neither a container's ports nor a Service name it."""
    given = environment(rendered["production"], "gateway")
    assert not {"LEYDEN_GATEWAY_ADMIN_HOST", "LEYDEN_GATEWAY_ADMIN_PORT"} & given.keys()
    (container,) = pods(rendered["production"])["gateway"]["containers"]
    assert {port["name"] for port in container["ports"]} == {"http", "ops"}
    services = [item for item in rendered["production"] if item["kind"] == "Service"]
    assert {port["targetPort"] for item in services for port in item["spec"]["ports"]} <= {"http", "ops"}


def test_the_gateway_s_spool_is_a_volume_that_outlives_pods(rendered: dict[str, list[Resource]]) -> None:
    """The setting, the mount and the claim belong together."""
    pod = pods(rendered["production"])["gateway"]
    folder = environment(rendered["production"], "gateway")["LEYDEN_GATEWAY_SPOOL_DIR"]
    (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == folder]
    assert not mount.get("readOnly")
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    assert volume["persistentVolumeClaim"] == {"claimName": "gateway-spool"}
    assert "LEYDEN_GATEWAY_SPOOL_DIR" not in environment(rendered["minimal"], "gateway")


def test_the_topics_exist_before_anything_that_reads_them(rendered: dict[str, list[Resource]]) -> None:
    """The hook runs first, so it must need nothing that the release itself brings."""
    job = find(rendered["production"], "Job", "-topics")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in pod
    assert "envFrom" not in pod["containers"][0]
    assert pod["containers"][0]["args"] == ["topics", "create"]
    assert environment(rendered["production"], "topics")["LEYDEN_KAFKA_BOOTSTRAP"].startswith(
        "b1.example.com"
    )


def test_keda_watches_the_group_that_the_runner_joins(rendered: dict[str, list[Resource]]) -> None:
    """KEDA's metadata is free text to every schema, so its meaning is asserted here."""
    (trigger,) = find(rendered["production"], "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"] == {
        "bootstrapServers": "b1.example.com:9096,b2.example.com:9096",
        "consumerGroup": "leyden-runner-rollouts",
        "topic": "leyden.rollouts.v1",
        "lagThreshold": "50",
        "offsetResetPolicy": "earliest",
        "sasl": "scram_sha512",
        "tls": "enable",
    }
    assert "replicas" not in find(rendered["production"], "Deployment", "-runner")["spec"]
    assert "replicas" not in find(rendered["production"], "Deployment", "-gateway")["spec"]


@pytest.mark.parametrize(("ca", "kinds"), [("", 1), ("kafka-ca", 2)])
def test_keda_is_given_what_it_needs_to_trust_and_no_empty_list(
    render: Callable[..., str], ca: str, kinds: int
) -> None:
    """TLS with a public authority needs nothing beside; an authentication of nothing would be refused."""
    tls = f"runner.keda.enabled=true,kafka.securityProtocol=SSL,kafka.caSecret={ca}"
    resources = _resources(render("minimal", "--set", tls))
    (trigger,) = find(resources, "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["tls"] == "enable"
    assert ("authenticationRef" in trigger) == bool(ca)
    assert len([item for item in resources if "keda.sh" in item["apiVersion"]]) == kinds


@pytest.mark.parametrize(
    ("values", "said", "unsaid"),
    [
        ("policy=shop", "cp ./FOLDER rel-leyden-learner-0:/var/lib/leyden/checkpoints/first", "--to"),
        ("checkpoints.url=s3://bucket/leyden", "--to s3://bucket/leyden", "kubectl -n agents cp"),
        ("registry.enabled=false", "leyden.tasks.v1", "models import"),
        ("gateway.enabled=false", "models import", "/v1\n"),
    ],
)
def test_notes_say_what_to_do_next(
    output: Callable[..., str], helm: Path, values: str, said: str, unsaid: str
) -> None:
    """For what was installed, and for where its weights lie."""
    file = CHART / "ci/minimal-values.yaml"
    dry = ("install", "rel", CHART, "--dry-run=client", "--namespace", "agents", "-f", file)
    notes = output(helm, *dry, "--set", values).partition("NOTES:")[2]
    assert said in notes
    assert unsaid not in notes


def test_only_those_who_must_reach_inference(rendered: dict[str, list[Resource]]) -> None:
    """An agent in a runner's pod must not sample unrecorded, nor move aliases."""
    policies = {
        item["metadata"]["labels"]["app.kubernetes.io/component"]: item["spec"]["ingress"]
        for item in rendered["production"]
        if item["kind"] == "NetworkPolicy"
    }
    assert set(policies) == set(SERVICES)
    (peer,) = policies["inference"][1]["from"]
    assert peer["podSelector"]["matchExpressions"] == [
        {
            "key": "app.kubernetes.io/component",
            "operator": "In",
            "values": ["gateway", "inference", "learner"],
        }
    ]
    (peer,) = policies["registry"][1]["from"]
    assert peer["podSelector"]["matchExpressions"] == [
        {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["runner"]}
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--set", "kafka.bootstrap="], "kafka.bootstrap is required"),
        (["--set", "database.existingSecret="], "database.existingSecret is required"),
        (["--set", "token.existingSecret="], "token.existingSecret is required"),
        (["--set", "policy="], "policy is required"),
        (["--set", "agents=null"], "agents is required"),
        (["--set", "kafka.securityProtocol=SASL_SSL"], "kafka.existingSecret is required"),
        (["--set", "runner.keda.enabled=true,runner.keda.maxReplicas=9"], "exceeds the 8 partitions"),
        (["--set", "learner.replicas=2"], "maximum"),
        (["--set", "gatway.replicas=2"], "gatway"),
        (["--set", "runner.env.lower=1"], "lower"),
        (["--set", "kafka.bootstrap=kafka"], "pattern"),
        (["--set", "gateway.apiKeys.shop.tenant=shop"], "existingSecret"),
        (["--set", "gateway.externals.judge.model=large"], "base_url"),
        (["--set", "inference.vllm.enabled=true"], "inference.vllm.model is required"),
        (["--set", "inference.vllm.gpus=1"], "gpus"),
    ],
)
def test_wrong_values_are_refused_by_name(
    attempt: Callable[..., Any], helm: Path, arguments: list[str], complaint: str
) -> None:
    """Before anything reaches the cluster."""
    done = attempt(helm, "template", "rel", CHART, "-f", CHART / "ci/minimal-values.yaml", *arguments)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_long_names_stay_within_a_dns_label(render: Callable[..., str]) -> None:
    """StatefulSet pods append an ordinal, controllers a hash."""
    for item in _resources(render("production", "--set", f"fullnameOverride={'x' * 80}")):
        assert len(item["metadata"]["name"]) <= 52


def test_the_chart_packages(output: Callable[..., str], helm: Path, tmp_path: Path) -> None:
    """Under its own version."""
    output(helm, "package", CHART, "--destination", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["leyden-0.1.0.tgz"]


def test_vllm_reads_what_was_fetched_from_an_object_store(render: Callable[..., str]) -> None:
    """A variable given twice would leave one of the two containers at the wrong folder."""
    resources = _resources(render("vllm", "--set", "checkpoints.url=s3://models/team"))
    own, vllm = pods(resources)["inference"]["containers"]
    names = [entry["name"] for entry in own["env"]]
    assert len(names) == len(set(names))
    cache = {entry["name"]: entry.get("value") for entry in own["env"]}["LEYDEN_INFERENCE_CACHE_DIR"]
    assert cache in {mount["mountPath"] for mount in vllm["volumeMounts"]}


def test_the_learner_asks_every_replica_before_it_deletes(rendered: dict[str, list[Resource]]) -> None:
    asked = environment(rendered["production"], "learner")["LEYDEN_LEARNER_SERVERS"]
    assert asked == environment(rendered["production"], "gateway")["LEYDEN_GATEWAY_REPLICAS"]


def test_an_object_store_replaces_the_volume(render: Callable[..., str]) -> None:
    text = render("minimal", "--set", "checkpoints.url=s3://models/team,checkpoints.existingSecret=store")
    assert "PersistentVolumeClaim" not in text
    assert "persistentVolumeClaim" not in text
    containers = {name: pod["containers"][0] for name, pod in pods(_resources(text)).items()}
    for component, variable, value in (
        ("learner", "LEYDEN_LEARNER_CHECKPOINT_URL", "s3://models/team"),
        ("registry", "LEYDEN_REGISTRY_ARTIFACT_URL", "s3://models/team"),
        ("inference", "LEYDEN_INFERENCE_CACHE_DIR", "/var/lib/leyden/checkpoints"),
    ):
        assert {"name": variable, "value": value} in containers[component]["env"]
    trusted = {
        name
        for name, container in containers.items()
        if {"secretRef": {"name": "store"}} in container.get("envFrom", [])
    }
    assert trusted == {"learner", "registry", "inference"}
