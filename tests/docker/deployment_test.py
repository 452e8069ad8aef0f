#!/usr/bin/env python3
"""Everything in docker/ and configs/ that names an option, a port, a path, a probe or a metric, against the product that has
them: a wrong name in a manifest is found here and not in a cluster.

    deployment_test.py PATH_OF_SLUICE
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "clients"))
from harness import ROOT, SECONDS, binary_argument, run_all, running_server, test  # noqa: E402

DOCKER, CONFIGS = ROOT / "docker", ROOT / "configs"
GRPC_PORT, HTTP_PORT = 50051, 8080
# What LeaderWorkerSet and other launchers put into the environment, besides ours.
FOREIGN_VARIABLES = {"LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX", "MASTER_PORT"}


def flags_of(binary, *command):
    text = subprocess.run([binary, *command, "--help"], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"--[a-z][a-z0-9-]*", text))


class Fixture:
    def __init__(self, binary):
        self.binary = binary
        self.flags = flags_of(binary, "serve")
        self.client_flags = flags_of(binary, "client")
        # As OptionSpec::variable() makes them of a key; both follow from the flag.
        self.variables = {"SLUICE_" + flag[2:].upper().replace("-", "_") for flag in self.flags - {"--config", "--help"}}
        with running_server(binary, "--http", "127.0.0.1:0", door="http") as (_, http):
            def get(path, body=None):
                with urllib.request.urlopen(urllib.request.Request(f"http://{http}{path}", body), timeout=SECONDS) as answer:
                    return answer.status, answer.read().decode()

            get("/v1/completions", b'{"model": "demo-moe", "prompt": "Once", "max_tokens": 4}')
            self.metrics = get("/metrics")[1]
            self.paths = {path for path in ("/health", "/ready", "/metrics") if get(path)[0] == 200}
        self.families = dict(re.findall(r"^# TYPE (\S+) (\w+)$", self.metrics, re.M))
        self.labels = {}
        for name, labels in re.findall(r"^([a-z_:]+)(?:\{(.*)\})? ", self.metrics, re.M):
            self.labels.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))

    def check_command(self, words):
        """A command line of ours names subcommands and flags that exist."""
        assert words[:1] == ["sluice"] and words[1] in ("serve", "client"), words
        known = self.flags if words[1] == "serve" else self.client_flags
        for word in words[2:]:
            assert not word.startswith("--") or word.split("=")[0] in known, f"{word} is no flag of sluice {words[1]}"

    def check_variables(self, names):
        for name in names:
            assert name in self.variables or name in FOREIGN_VARIABLES, f"{name}: no option is read from it"

    def check_expression(self, text):
        """Every metric of a PromQL expression is served, with the labels that it asks for."""
        names = set(re.findall(r"\b(?:sluice_|vllm:)[a-z_:]+", text))
        assert names, f"no metric in {text!r}"
        for name in names:
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            kind = self.families.get(name) or ("histogram" if self.families.get(family) == "histogram" else None)
            assert kind, f"{name} is not in /metrics"
            if f"{name}_total" in text or name.endswith("_total"):
                assert kind == "counter" and re.search(rf"(rate|increase)\({re.escape(name)}", text), f"{name}: a counter wants rate()"
        for group in re.findall(r"by \((\w+)\)", text):
            assert any(group in self.labels.get(name, ()) for name in names), f"no metric of {text!r} has the label {group}"
        for name, selector in re.findall(r"((?:sluice_|vllm:)[a-z_:]+)\{([^}]*)\}", text):
            for label in set(re.findall(r"(\w+)\s*[=!]~?", selector)) - {"instance", "job", "pod", "le"}:
                assert label in self.labels[name], f"{name} has no label {label}"


# ---- Dockerfiles

def instructions(name):
    """[(WORD, rest)] with comments and continued lines resolved."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / name).read_text(), flags=re.M)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(word.upper(), re.sub(r"\s+", " ", rest).strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def check_dockerfile(f, name):
    steps = instructions(name)
    stages = [index for index, (word, _) in enumerate(steps) if word == "FROM"]
    run_stage = steps[stages[-1]:]
    words = {word for word, _ in run_stage}
    assert steps[0][0] == "ARG" and steps[0][1].startswith("BASE="), "the base is an argument"
    for word, rest in steps:
        assert word != "ARG" or (":" in rest and ":latest" not in rest), f"ARG {rest}: an image without a version changes overnight"
    assert {"USER", "HEALTHCHECK", "ENTRYPOINT", "CMD", "STOPSIGNAL", "EXPOSE"} <= words, words
    for word, rest in steps:
        if word == "FROM":
            assert rest.split()[0] == "${BASE}" or rest == "${TOOLKIT} AS toolkit", rest
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest and "apt-get update" in rest and "rm -rf /var/lib/apt/lists/*" in rest, rest
        if word == "RUN":
            assert "sudo" not in rest and "curl" not in rest and "wget" not in rest, f"{rest}: fetches past the package manager"
        assert word != "ADD" or "--checksum=sha256:" in rest, f"ADD {rest}: without a checksum"
        if word == "COPY" and "--from=" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), f"COPY {source}: is not in the tree"
                ignored = {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")}
                assert source.split("/")[0] not in ignored, f"COPY {source}: .dockerignore keeps it from the builder"
    users = [rest for word, rest in run_stage if word == "USER"]
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users), "Kubernetes can only tell that a number is not root"
    last = dict(run_stage)
    after = [word for word, _ in run_stage[next(i for i, (word, _) in enumerate(run_stage) if word == "USER"):]]
    assert "RUN" not in after and "COPY" not in after, "what belongs to the user can be changed by it"
    for word in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(last[word]), list), f"{word}: a shell in between would keep SIGTERM to itself"
    f.check_command(json.loads(last["ENTRYPOINT"]) + json.loads(last["CMD"]))
    f.check_command(json.loads(last["HEALTHCHECK"].partition("CMD ")[2]))
    env = dict(pair.split("=", 1) for word, rest in run_stage if word == "ENV" for pair in rest.split())
    f.check_variables(name for name in env if not name.startswith("NVIDIA_"))
    assert last["EXPOSE"].split() == [str(GRPC_PORT), str(HTTP_PORT)]
    assert env["SLUICE_GRPC"].endswith(f":{GRPC_PORT}") and env["SLUICE_HTTP"].endswith(f":{HTTP_PORT}")
    assert "SLUICE_INSECURE" not in env, "whoever deploys says it, not the image"


@test
def the_cpu_image_is_built_as_it_should_be(f):
    check_dockerfile(f, "Dockerfile.cpu")


@test
def the_cuda_image_takes_the_same_steps(f):
    check_dockerfile(f, "Dockerfile.cuda")
    only_cuda = re.compile(r"TOOLKIT|toolkit|NVIDIA_")
    ours = [(word, rest.replace(" -DSLUICE_NVCC=/usr/local/cuda/bin/nvcc", "")) for word, rest in instructions("Dockerfile.cuda")
            if not only_cuda.search(rest)]
    assert ours == instructions("Dockerfile.cpu")


@test
def package_lists_are_names_that_debian_has(_):
    for name in ("packages.txt", "packages-full.txt", "packages-runtime.txt"):
        packages = re.sub(r"#.*", "", (DOCKER / name).read_text()).split()
        assert len(set(packages)) == len(packages), f"{name}: a name is there twice"
        assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", package) for package in packages), packages


# ---- compose, Prometheus, Grafana

@test
def compose_wires_what_is_there(f):
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    sluice = compose["services"]["sluice"]
    assert (DOCKER / sluice["build"]["context"] / sluice["build"]["dockerfile"]).exists()
    f.check_variables(sluice["environment"])
    assert sluice["read_only"] and sluice["cap_drop"] == ["ALL"]
    grace = int(sluice["stop_grace_period"].removesuffix("s"))
    assert grace > int(sluice["environment"]["SLUICE_DRAIN_SECONDS"]), "killed before the drain ends"
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "compose opens nothing to the network"
        assert ":latest" not in service["image"] and ":" in service["image"], service["image"]
        for volume in service["volumes"]:
            source = volume.split(":")[0] if not volume.startswith("$") else None
            if source and source.startswith("."):
                assert (DOCKER / source).exists(), source
    assert sluice["ports"] == [f"127.0.0.1:{port}:{port}" for port in (GRPC_PORT, HTTP_PORT)]
    assert set(compose["services"]["prometheus"]["depends_on"]) <= set(compose["services"])
    scrape = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["metrics_path"] in f.paths and scrape["static_configs"][0]["targets"] == [f"sluice:{HTTP_PORT}"]


@test
def every_panel_shows_metrics_that_exist(f):
    dashboard = json.loads((DOCKER / "grafana/dashboards/sluice.json").read_text())
    source = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/sluice.yaml").read_text())["providers"][0]
    mounts = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert any(mount.split(":")[1] == provider["options"]["path"] for mount in mounts)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) > 10
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == source["uid"] and panel["targets"], panel["title"]
        for target in panel["targets"]:
            f.check_expression(target["expr"])
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                names = re.findall(r"sluice_[a-z_]+", target["expr"])
                assert any(label in f.labels.get(name, ()) for name in names), (panel["title"], label)
    for variable in dashboard["templating"]["list"]:
        assert re.search(r"label_values\((\w+),", variable["query"]["query"])[1] in f.families


# ---- Kubernetes

def manifests():
    for file in sorted((DOCKER / "k8s").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            assert {"apiVersion", "kind", "metadata", "spec"} <= document.keys(), file
            yield file.name, document


def pod_templates(document):
    spec = document["spec"]
    if document["kind"] == "Deployment":
        yield spec["template"]
    if document["kind"] == "LeaderWorkerSet":
        yield from (spec["leaderWorkerTemplate"][name] for name in ("leaderTemplate", "workerTemplate"))


def check_pod(f, template):
    pod = template["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        guard = container["securityContext"]
        assert guard["readOnlyRootFilesystem"] and guard["capabilities"]["drop"] == ["ALL"] and not guard["allowPrivilegeEscalation"]
        assert ":" in container["image"] and not container["image"].endswith(":latest"), container["image"]
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        f.check_variables(env)
        if "command" in container:
            f.check_command(container["command"] + container.get("args", []))
        else:
            f.check_command(["sluice"] + container.get("args", ["serve"]))
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind)
            if not probe:
                continue
            if "grpc" in probe:
                assert probe["grpc"]["port"] == ports["grpc"] == GRPC_PORT
            elif "httpGet" in probe:
                assert probe["httpGet"]["path"] in f.paths and ports[probe["httpGet"]["port"]] == HTTP_PORT
            else:
                f.check_command(probe["exec"]["command"])
        drain, hook = float(env.get("SLUICE_DRAIN_SECONDS") or 30), container.get("lifecycle", {}).get("preStop")
        before = float(hook["exec"]["command"][1]) if hook else 0
        assert pod["terminationGracePeriodSeconds"] > before + drain, "killed before the drain ends"
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) <= volumes
        for name in ("SLUICE_WEIGHTS_CACHE", "SLUICE_CACHE_DISK"):
            assert not env.get(name) or any(env[name].startswith(path) for path in mounts.values()), f"{name} lies on no mount"
        assert not env.get("SLUICE_CACHE_DISK") or int(env["SLUICE_CACHE_HOST_MIB"]) > 0


@test
def pods_name_what_the_product_has(f):
    found = 0
    for name, document in manifests():
        for template in pod_templates(document):
            found += 1
            try:
                check_pod(f, template)
            except (AssertionError, KeyError) as error:
                raise AssertionError(f"{name}: {document['kind']}: {error!r}") from error
    assert found >= 1


@test
def selectors_and_ports_meet(f):
    documents = [document for _, document in manifests()]
    by_kind = {}
    for document in documents:
        by_kind.setdefault(document["kind"], []).append(document)
    deployment, = by_kind["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selector.items() <= labels.items() and labels["llm-d.ai/engine-type"] == "vllm"
    service = next(document for document in by_kind["Service"] if document["metadata"]["name"] == deployment["metadata"]["name"])
    assert service["spec"]["selector"] == selector
    for port in service["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    policy = next(document for document in by_kind["NetworkPolicy"] if document["metadata"]["name"] == deployment["metadata"]["name"])
    assert policy["spec"]["podSelector"]["matchLabels"] == selector
    assert {port["port"] for port in policy["spec"]["ingress"][0]["ports"]} == set(ports.values())
    pool, = by_kind["InferencePool"]
    assert pool["spec"]["selector"]["matchLabels"] == selector
    assert pool["spec"]["targetPorts"] == [{"number": ports["http"]}]
    for kind in ("PodMonitor", "PodDisruptionBudget"):
        assert by_kind[kind][0]["spec"]["selector"]["matchLabels"] == selector
    endpoint, = by_kind["PodMonitor"][0]["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] in f.paths and endpoint["port"] in ports
    scaler, = by_kind["HorizontalPodAutoscaler"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


@test
def ranks_over_machines_find_each_other(f):
    documents = {document["kind"]: document for name, document in manifests() if name == "leader-worker-set.yaml"}
    group = documents["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
    assert group["restartPolicy"] == "RecreateGroupOnPodRestart"
    leader, worker = (group[name]["spec"]["containers"][0] for name in ("leaderTemplate", "workerTemplate"))
    ours, theirs = ({entry["name"]: entry["value"] for entry in pod["env"]} for pod in (leader, worker))
    assert ours["SLUICE_TP"] == str(group["size"])
    # What makes them one group with one model is the same on all.
    assert all(ours.get(name) == value for name, value in theirs.items()), (ours, theirs)
    assert ours.keys() - theirs.keys() <= {"SLUICE_DRAIN_SECONDS"}, ours.keys() - theirs.keys()
    ports = {port["name"]: port["containerPort"] for port in leader["ports"]}
    assert ours["MASTER_PORT"] == str(ports["ranks"])
    assert not any(kind in worker for kind in ("startupProbe", "readinessProbe", "livenessProbe")), "a worker listens for nobody"
    service, policy = documents["Service"], documents["NetworkPolicy"]
    labels, others = (group[name]["metadata"]["labels"] for name in ("leaderTemplate", "workerTemplate"))
    assert service["spec"]["selector"].items() <= labels.items() and not service["spec"]["selector"].items() <= others.items()
    assert all(ports[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])
    pods = policy["spec"]["podSelector"]["matchLabels"]
    assert pods.items() <= labels.items() and pods.items() <= others.items()
    assert any(rule["from"] == [{"podSelector": {"matchLabels": pods}}] and "ports" not in rule for rule in policy["spec"]["ingress"])
    # The binary takes this environment for a group: rank 1 of 2 looks for its leader, and says where.
    environment = {**os.environ, **theirs, "LWS_WORKER_INDEX": "1", "LWS_GROUP_SIZE": str(group["size"]), "LWS_LEADER_ADDRESS": "127.0.0.1",
                   "MASTER_PORT": "1", "SLUICE_PARALLEL_START_TIMEOUT": "1", "SLUICE_WEIGHTS_CACHE": ""}
    lost = subprocess.run([f.binary, "serve"], env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert lost.returncode != 0 and "127.0.0.1" in lost.stderr and "listen" not in lost.stderr, lost.stderr
    wrong = subprocess.run([f.binary, "serve"], env={**environment, "LWS_GROUP_SIZE": "3"}, capture_output=True, text=True, timeout=SECONDS)
    assert "a LeaderWorkerSet started 3 processes (LWS_GROUP_SIZE)" in wrong.stderr, wrong.stderr


@test
def metrics_that_scale_route_and_alert_are_served(f):
    for name, document in manifests():
        if document["kind"] == "HorizontalPodAutoscaler":
            for metric in document["spec"]["metrics"]:
                assert f.families.get(metric["pods"]["metric"]["name"]) == "gauge", metric
        if document["kind"] == "PrometheusRule":
            for group in document["spec"]["groups"]:
                for rule in group["rules"]:
                    f.check_expression(rule["expr"])
    # What the Gateway API inference extension's endpoint picker reads by default.
    text = (DOCKER / "k8s/inference-gateway.yaml").read_text()
    for metric in ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:cache_config_info"):
        assert metric in text and f.families.get(metric) == "gauge", metric
    assert {"block_size", "num_gpu_blocks"} <= f.labels["vllm:cache_config_info"]


# ---- configs

def scenarios():
    for file in sorted(CONFIGS.glob("*.yaml")):
        if file.name != "default.yaml":
            yield file, file.read_text()


@test
def scenarios_quote_what_inspect_prints(f):
    found = 0
    for file, text in scenarios():
        shapes = re.findall(r"^#   \$ sluice inspect (\S+)\n((?:^#   [^$].*\n)+)", text, re.M)
        assert shapes, f"{file.name}: is sized by nothing"
        for shape, block in shapes:
            printed = subprocess.run([f.binary, "inspect", ROOT / shape], check=True, capture_output=True, text=True).stdout.splitlines()
            for line in block.splitlines():
                assert line.removeprefix("#   ") in printed, f"{file.name}: {shape}: inspect does not print {line!r}"
                found += 1
    assert found > 10


@test
def scenarios_count_the_tokens_that_their_caches_hold(f):
    for file, text in scenarios():
        shape = re.search(r"sluice inspect (\S+)", text)[1]
        report = json.loads(subprocess.run([f.binary, "inspect", ROOT / shape, "--json"], check=True, capture_output=True, text=True).stdout)
        config = yaml.safe_load(text)
        per_token = report["cache_bytes_per_token"]
        for key, tokens in re.findall(r"^  (memory_mib|host_mib): \d+  # (\d+) tokens", text, re.M):
            assert int(tokens) == (config["cache"][key] << 20) // per_token, f"{file.name}: cache.{key}: {tokens} tokens"
        assert (config["cache"]["memory_mib"] << 20) // per_token >= config["context"], f"{file.name}: not one whole context fits"


def main():
    return run_all(Fixture(binary_argument(__doc__)))


if __name__ == "__main__":
    sys.exit(main())
