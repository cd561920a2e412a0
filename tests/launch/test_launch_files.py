"""Tests that the launch files parse, and that every flag, key and option in them and in their guide exists."""

import functools
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch.fake_tools import FOLDER, TRAIN, finish, read_calls, start, write_program
from tests.repository import ROOT
from wukong_jax.cli.commands import load_command
from wukong_jax.cli.parser import UsageError, parse_settings
from wukong_jax.config import RunConfig, build_run_config, start_config
from wukong_jax.config_files import load_config
from wukong_jax.config_overrides import apply_flags
from wukong_jax.errors import UserError

SCRIPTS = sorted([*FOLDER.glob("*.sh"), *FOLDER.glob("*.sbatch")])
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
GUIDE = ROOT / "docs" / "guides" / "clusters.md"
NAMES = [path.name for path in [*SCRIPTS, *MANIFESTS]]
# Fields of a Pod and of JobSet's API that the manifests use; the check against the whole schema needs a package.
FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"network", "failurePolicy", "replicatedJobs"},
    "spec.network": {"enableDNSHostnames"},
    "spec.failurePolicy": {"maxRestarts", "rules"},
    "spec.failurePolicy.rules": {"name", "action", "onJobFailureReasons"},
    "spec.replicatedJobs": {"name", "replicas", "template"},
    "spec.replicatedJobs.template": {"spec"},
    "spec.replicatedJobs.template.spec": {
        "completions",
        "parallelism",
        "completionMode",
        "backoffLimit",
        "podFailurePolicy",
        "template",
    },
    "spec.replicatedJobs.template.spec.template.spec": {
        "restartPolicy",
        "terminationGracePeriodSeconds",
        "nodeSelector",
        "containers",
        "volumes",
    },
    "spec.replicatedJobs.template.spec.template.spec.containers": {
        "name",
        "image",
        "command",
        "args",
        "env",
        "ports",
        "resources",
        "volumeMounts",
    },
}


def find_tool(name: str) -> str:
    """Returns a tool of the environment or of this machine; skips the test if there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def read_manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def find_job(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a manifest's replicated job and its container."""
    (job,) = read_manifest(name)["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    return job, container


def check_train(arguments: list[str]) -> tuple[Any, RunConfig]:
    """Parses the flags of `train` and builds the config that they name.

    Raises:
      UserError: a flag or key does not exist.
    """
    settings = parse_settings(load_command("train").Settings, arguments, "train", "")
    config = apply_flags(load_config(settings.config), [f"--config.{change}" for change in settings.changes])
    return settings, build_run_config(config)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_stop_at_errors(path):
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=20)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert (path.stat().st_mode & 0o111 != 0) == (path.suffix == ".sh")


def test_shellcheck_has_nothing_to_say():
    done = subprocess.run([find_tool("shellcheck"), *map(str, SCRIPTS)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", [path.name for path in MANIFESTS])
def test_manifests_name_fields_that_exist(name):
    def walk(place: str, value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                walk(place, item)
        elif isinstance(value, dict):
            assert set(value) <= FIELDS.get(place, set(value)), place
            for key, below in value.items():
                walk(f"{place}.{key}".lstrip("."), below)

    manifest = read_manifest(name)
    walk("", manifest)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")


def contains(whole: Any, part: Any) -> bool:
    """Whether a structure holds another one; a schema may fill in defaults."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


@pytest.mark.parametrize("name", [path.name for path in MANIFESTS])
def test_manifests_fit_the_schema_of_jobset(name):
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="kubeflow-trainer-api is not installed")
    schema = models.JobsetV1alpha2JobSet
    manifest = read_manifest(name)
    assert contains(schema.from_dict(manifest).to_dict(), manifest)
    manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["backofLimit"] = 0  # unknown fields are left out
    assert not contains(schema.from_dict(manifest).to_dict(), manifest)


@pytest.mark.parametrize("name", [path.name for path in MANIFESTS])
def test_manifests_start_train_without_a_shell_and_restart_as_a_whole(name):
    job, container = find_job(name)
    spec = job["template"]["spec"]
    assert container["command"] == ["wukong-jax", "train"]
    assert spec["backoffLimit"] == 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what a podFailurePolicy asks for
    preempted, saved = spec["podFailurePolicy"]["rules"]
    assert preempted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert saved["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [143]}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    mounted = tuple(mount["mountPath"] for mount in container["volumeMounts"])
    settings, _ = check_train([argument.replace("$(PROCESS)", "0") for argument in container["args"]])
    assert settings.workdir.startswith(mounted)


def test_tpu_manifest_counts_its_chips_once():
    job, container = find_job("gke_tpu.yaml")
    spec = job["template"]["spec"]
    mesh = check_train(container["args"])[1].mesh
    shape = spec["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = functools.reduce(lambda product, size: product * int(size), shape, 1)
    assert (mesh.hosts, mesh.chips) == (job["replicas"], chips)
    assert spec["completions"] == spec["parallelism"]
    assert spec["completions"] * container["resources"]["limits"]["google.com/tpu"] == chips


def test_gpu_manifest_counts_its_nodes_once():
    job, container = find_job("gke_gpu.yaml")
    spec = job["template"]["spec"]
    arguments = [argument.replace("$(PROCESS)", "1") for argument in container["args"]]
    settings, config = check_train(arguments)
    assert settings.processes == config.mesh.hosts == spec["completions"] == spec["parallelism"]
    assert (job["replicas"], spec["completionMode"]) == (1, "Indexed")
    name = read_manifest("gke_gpu.yaml")["metadata"]["name"]
    host, port = settings.coordinator.split(":")
    assert host == f"{name}-{job['name']}-0-0.{name}"
    assert container["ports"] == [{"containerPort": int(port)}]


@pytest.mark.parametrize("name", ["slurm_gpu.sbatch", "ssh_hosts.sh", "tpu_vm.sh"])
def test_scripts_pass_flags_that_exist(name, tmp_path):
    for tool in ("srun", "ssh", "gcloud"):
        write_program(tmp_path / tool, "")
    own = {"SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_NUM_NODES": "3", "HOSTS": "a b c", "ZONE": "z", "SLICES": "3"}
    arguments = ["train", *TRAIN] if name == "tpu_vm.sh" else list(TRAIN)
    finish(start(name, tmp_path, *arguments, **own))
    lines = [" ".join(call) for call in read_calls(tmp_path)]
    assert lines
    for line in lines:
        words = line.partition(" train ")[2].split()
        assert check_train(words)[1].mesh.hosts == 3


def list_flags(*kinds: str) -> list[str]:
    """Returns the flags of other programs, such as --xla_gpu_x=1, in the files and the guide."""
    texts = [path.read_text(encoding="utf-8") for path in [*SCRIPTS, *MANIFESTS, GUIDE]]
    pattern = rf"--(?:{'|'.join(kinds)})_\w+=[^\s\"'`]+"
    return sorted({flag for text in texts for flag in re.findall(pattern, text)})


def start_jax(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_flags_for_gpus_exist_in_this_jaxlib():
    flags = list_flags("xla_gpu")
    assert len(flags) >= 2
    done = start_jax("import jax; jax.devices()", XLA_FLAGS=" ".join(flags))
    assert done.returncode == 0, done.stderr
    wrong = start_jax("import jax; jax.devices()", XLA_FLAGS=" ".join([*flags, "--xla_gpu_enable_no_such_thing=true"]))
    assert "Unknown flag" in wrong.stderr


def test_flags_for_tpus_exist_in_this_libtpu():
    pytest.importorskip("libtpu", reason="libtpu is not installed")
    code = (
        "from wukong_jax.clusters.compile_ahead import describe_devices, use_no_accelerator\n"
        "from wukong_jax.clusters.targets import find_target\n"
        "use_no_accelerator()\n"
        "print(len(describe_devices(find_target('v5p_2x2x1_2slices'))))"
    )
    flags = list_flags("megascale", "xla_tpu")
    assert len(flags) >= 2
    done = start_jax(code, LIBTPU_INIT_ARGS=" ".join(flags))
    assert done.returncode == 0, done.stderr
    wrong = start_jax(code, LIBTPU_INIT_ARGS="--megascale_no_such_thing=1")
    assert "Unknown command line flag" in wrong.stderr + wrong.stdout


def read_help(*command: str) -> str:
    done = subprocess.run([find_tool(command[0]), *command[1:], "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return re.sub(r"\x1b\[[\d;]*m|.\x08", "", done.stdout)


def test_options_of_sbatch_exist(tmp_path):
    sbatch = find_tool("sbatch")
    config = tmp_path / "slurm.conf"  # of a cluster that does not answer; sbatch reads the options before it asks
    lines = ("ClusterName=x", "SlurmctldHost=localhost", "SlurmctldPort=1", "MessageTimeout=2", "GresTypes=gpu")
    lines += ("AuthType=auth/none", "CredType=cred/none", "NodeName=n", "PartitionName=p Nodes=n Default=YES")
    config.write_text("\n".join(lines) + "\n")
    text = (FOLDER / "slurm_gpu.sbatch").read_text(encoding="utf-8")
    for changed, said in (
        (text, "Unable to contact slurm controller"),
        (text.replace("--requeue", "--reqeue"), "unrecognized option"),
        (text.replace("TERM@", "TRM@"), "Invalid --signal specification"),
    ):
        (tmp_path / "job").write_text(changed)
        environment = os.environ | {"SLURM_CONF": str(config)}
        words = [sbatch, "--test-only", str(tmp_path / "job")]
        assert said in subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60).stderr


def test_options_of_srun_exist():
    text = (FOLDER / "slurm_gpu.sbatch").read_text(encoding="utf-8")
    options = re.findall(r"(--[\w-]+)", text.partition("\nsrun ")[2].partition('"$PROGRAM"')[0])
    assert len(options) == 4
    done = subprocess.run([find_tool("srun"), "--help"], capture_output=True, text=True, timeout=60)
    if "configuration source" in done.stderr:
        pytest.skip("srun has no slurm.conf here, without which it prints no help")
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert [option for option in options if not re.search(rf"{option}(?![\w-])", shown)] == []


def test_flags_of_gcloud_exist(tmp_path):
    completions = Path(find_tool("gcloud")).resolve().parents[1] / "data" / "cli" / "gcloud_completions.py"
    if not completions.exists():
        pytest.skip("this gcloud has no list of its flags")
    tree = runpy.run_path(str(completions))["STATIC_COMPLETION_CLI_TREE"]
    write_program(
        tmp_path / "gcloud", 'case "$4" in describe) [[ -e there ]] && echo ACTIVE ;; create) touch there ;; esac'
    )
    own = {"ZONE": "z", "SLICES": "2", "SPOT": "true", "SHARE": "h:/x", "POLL_SECONDS": "0"}
    write_program(tmp_path / "git", "")
    assert finish(start("tpu_vm.sh", tmp_path, "run", *TRAIN, **own))[0] == 0
    assert finish(start("tpu_vm.sh", tmp_path, "delete", **own))[0] == 0
    used: dict[str, set[str]] = {}
    for call in read_calls(tmp_path):
        if call[0] == "gcloud":
            used.setdefault(call[4], set()).update(w.partition("=")[0] for w in call[5:] if w.startswith("--"))
    assert set(used) == {"create", "describe", "scp", "ssh", "delete"}
    common = set(tree["flags"])
    for name in ("compute", "tpus", "queued-resources"):
        tree = tree["commands"][name]
    for verb, flags in used.items():
        assert flags - common - set(tree["commands"][verb]["flags"]) == set(), verb


def find_unknown_words(text: str) -> list[str]:
    """Returns config keys and flags in code font that do not exist here, nor in the launch files."""
    commands = ("train", "evaluate", "predict", "export", "prepare_data", "launch_local", "compile_for_cluster")
    known = {f"--{flag}" for name in commands for flag in list_own_flags(name)}
    files = "".join(path.read_text(encoding="utf-8") for path in [*SCRIPTS, *MANIFESTS])
    unknown = []
    for code in re.findall(r"`([^`\n]+)`", text):
        for key in re.findall(r"\bconfig\.([a-z_.]+[a-z_])", code):
            holder: Any = start_config()
            for part in key.split("."):
                if part not in holder:
                    unknown.append(f"config.{key}")
                    break
                holder = holder[part]
        for flag in re.findall(r"(?<!\S)(--(?!xla_|megascale_)[a-z][\w-]*)", code):
            if flag != "--config" and flag not in known and not re.search(rf"{flag}(?![\w-])", files):
                unknown.append(flag)
    return unknown


def list_own_flags(name: str) -> set[str]:
    return {field for field in load_command(name).Settings.__dataclass_fields__}


def test_words_of_the_guide_exist():
    assert find_unknown_words(GUIDE.read_text(encoding="utf-8")) == []
    assert find_unknown_words("`--proceses=2` and `config.mesh.host`, `--config.mesh.chip=2`") == [
        "--proceses",
        "config.mesh.host",
        "config.mesh.chip",
    ]


def test_guide_names_every_launch_file():
    text = GUIDE.read_text(encoding="utf-8")
    assert [name for name in NAMES if f"scripts/launch/{name}" not in text] == []


def test_checker_of_flags_finds_a_wrong_one():
    with pytest.raises(UsageError):
        check_train([*TRAIN, "--proceses=2"])
    with pytest.raises(UserError):
        check_train([*TRAIN, "--config.mesh.host=2"])
