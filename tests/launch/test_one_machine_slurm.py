"""Runs the SLURM file on a SLURM of two nodes, both this machine, where slurmctld and slurmd are installed."""

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.fake_tools import FOLDER, wait_until
from wukong_jax.clusters.local_processes import find_free_port

# A training that saves when it is told to, unless FAIL says that process 1 fails.
PROGRAM = """#!/usr/bin/env bash
trap 'echo saved; exit 143' TERM
trap 'exit 130' INT
echo "started ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME: $*"
[[ $SLURM_PROCID != 1 || -z ${FAIL:-} ]] || exit 1
while [[ ! -e failed ]]; do sleep 0.05; done
exit 1
"""


class Slurm:
    """A SLURM cluster of two nodes, and its commands."""

    def __init__(self, folder: Path) -> None:
        """Writes its configuration."""
        self.folder = folder
        user, host = getpass.getuser(), socket.gethostname()
        lines = [
            "ClusterName=one",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={find_free_port()}",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            "AuthType=auth/none",
            "CredType=cred/none",
            "MpiDefault=none",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobCompType=jobcomp/none",
            "SlurmdParameters=config_overrides",
            "GresTypes=gpu",
            "ReturnToService=2",
            "KillWait=2",
            f"SlurmctldPidFile={folder}/slurmctld.pid",
            f"SlurmdPidFile={folder}/slurmd-%n.pid",
            f"SlurmdSpoolDir={folder}/spool-%n",
            f"StateSaveLocation={folder}/state",
            "SelectType=select/cons_tres",
        ]
        lines += [f"NodeName=node{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={find_free_port()}" for i in range(2)]
        lines += ["PartitionName=all Nodes=node[0-1] Default=YES"]
        (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PROGRAM": "./program"}

    def call(self, *words: str, **own: str) -> str:
        """Runs a command of SLURM; returns its output."""
        environment = self.environment | own
        done = subprocess.run(words, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_ready(self) -> bool:
        """Whether both nodes wait for jobs."""
        words = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() == "2"

    def submit(self, **own: str) -> str:
        """Submits the launch file; returns the job's number."""
        place = ("--gpus-per-node=0", "--cpus-per-task=1", "--time=10", "--output=job.log")
        script = str(FOLDER / "slurm_gpu.sbatch")
        return self.call("sbatch", "--parsable", *place, script, "--config=quickstart", "--workdir=w", **own).strip()

    def describe(self, job: str) -> dict[str, str]:
        """Returns what SLURM knows of a job."""
        return dict(re.findall(r"(\w+)=(\S+)", self.call("scontrol", "show", "job", job)))

    def read_log(self) -> str:
        log = self.folder / "job.log"
        return log.read_text() if log.exists() else ""


@contextlib.contextmanager
def start_daemons(slurm: Slurm) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for words in (["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", "node0"], ["slurmd", "-D", "-N", "node1"]):
            with (slurm.folder / f"{words[-1]}.log").open("w") as log:
                daemon = subprocess.Popen(words, env=slurm.environment, stdout=log, stderr=log)
            stack.callback(daemon.wait, 20)
            stack.callback(daemon.terminate)
        wait_until(slurm.is_ready)
        yield


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    for name in ("slurmctld", "slurmd", "sbatch"):
        if not shutil.which(name):
            pytest.skip(f"{name} is not installed")
    if os.geteuid() != 0:
        pytest.skip("slurmd needs root")
    program = tmp_path / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    (tmp_path / "state").mkdir()
    made = Slurm(tmp_path)
    with start_daemons(made):
        yield made


def test_a_saved_job_queues_again_and_a_failed_one_does_not(slurm):
    job = slurm.submit()
    wait_until(lambda: slurm.read_log().count("started 0 on node") == 2)
    assert "train --config.mesh.hosts=2 --config=quickstart --workdir=w" in slurm.read_log()
    slurm.call("scancel", "--signal=TERM", job)  # as SLURM does before the time limit
    wait_until(lambda: slurm.describe(job)["JobState"] == "PENDING")
    assert slurm.read_log().count("saved") == 2
    slurm.call("scontrol", "update", f"jobid={job}", "starttime=now")
    wait_until(lambda: slurm.read_log().count("started 1 on node") == 2)
    slurm.call("scancel", "--signal=INT", job)
    wait_until(lambda: slurm.describe(job)["JobState"] == "FAILED")
    assert slurm.describe(job)["ExitCode"] == "130:0"

    job = slurm.submit(FAIL="yes")
    wait_until(lambda: "task 1: Exited with exit code 1" in slurm.read_log())
    (slurm.folder / "failed").touch()  # which the others of a team learn
    wait_until(lambda: slurm.describe(job)["JobState"] == "FAILED")
    assert slurm.describe(job)["ExitCode"] == "1:0"
