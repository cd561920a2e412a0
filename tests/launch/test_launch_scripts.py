"""Tests what the launch scripts do, with stand-ins for ssh, srun, scontrol and gcloud."""

import signal
from pathlib import Path

import pytest

from tests.launch.fake_tools import TRAIN, finish, read_calls, start, wait_until, write_program

# A training that ends by itself with CODE, or goes on until TERM or INT and then ends as a run that was saved.
UNTIL_TOLD = "trap 'echo saved; exit 143' TERM\ntrap 'exit 130' INT\necho started\nwhile true; do sleep 0.05; done"
BY_HOST = 'exit "$(cat "$HOST.code" 2>/dev/null || echo 0)"'


def fake_hosts(folder: Path, program: str) -> dict[str, str]:
    """Makes an ssh that runs commands here, with the host's name in HOST, and a program to be trained with."""
    write_program(folder / "ssh", 'shift 4\nHOST="$1" exec bash -c "$2"')
    write_program(folder / "program", program)
    return {"HOSTS": "root@a b c", "PROGRAM": "./program", "FOLDER": str(folder), "TMPDIR": str(folder)}


def list_trainings(folder: Path) -> list[list[str]]:
    # A call that is just being written has no words yet.
    return sorted(call[1:] for call in read_calls(folder) if call and call[0] == "program")


def test_ssh_starts_a_process_a_host(tmp_path):
    own = fake_hosts(tmp_path, "echo one; echo $VALUE")
    own |= {"ENVIRONMENT": "VALUE=two", "PORT": "29400"}
    code, output, errors = finish(start("ssh_hosts.sh", tmp_path, *TRAIN, "--x=a b", **own))
    assert (code, errors) == (0, "")
    assert sorted(output.splitlines()) == sorted(f"[{i}] {word}" for i in range(3) for word in ("one", "two"))
    assert list_trainings(tmp_path) == [
        [
            "train",
            "--coordinator=a:29400",
            "--processes=3",
            f"--process={i}",
            "--config.mesh.hosts=3",
            *TRAIN,
            "--x=a b",
        ]
        for i in range(3)
    ]


def test_ssh_keeps_the_first_bad_exit_code(tmp_path):
    own = fake_hosts(tmp_path, BY_HOST)
    (tmp_path / "b.code").write_text("2")
    (tmp_path / "c.code").write_text("3")
    code, _, errors = finish(start("ssh_hosts.sh", tmp_path, *TRAIN, **own))
    assert code == 2
    assert errors.splitlines() == [
        "process 1 on b ended with exit code 2",
        "process 2 on c ended with exit code 3",
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_ssh_passes_a_signal_to_process_0(tmp_path, number, code):
    """The processes tell each other; here only the first ends, and the script waits for the others."""
    others = f'if [[ "$*" == *--process=0* ]]; then\n{UNTIL_TOLD}\nfi\nuntil [[ -e free ]]; do sleep 0.05; done'
    running = start("ssh_hosts.sh", tmp_path, *TRAIN, **fake_hosts(tmp_path, others))
    wait_until(lambda: len(list_trainings(tmp_path)) == 3)
    wait_until(lambda: "started" in running.stdout.readline())
    running.send_signal(number)
    assert running.poll() is None
    (tmp_path / "free").touch()
    assert finish(running)[0] == code


def test_ssh_needs_hosts(tmp_path):
    code, _, errors = finish(start("ssh_hosts.sh", tmp_path, *TRAIN))
    assert code != 0
    assert "HOSTS: names the hosts" in errors


def run_slurm(folder: Path, code: int) -> tuple[int, list[list[str]]]:
    write_program(folder / "srun", f"exit {code}")
    write_program(folder / "scontrol", "")
    own = {"SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_ID": "71"}
    return finish(start("slurm_gpu.sbatch", folder, *TRAIN, **own))[0], read_calls(folder)


@pytest.mark.parametrize("code", [0, 1, 2, 130, 137])
def test_slurm_keeps_the_exit_code(tmp_path, code):
    returned, calls = run_slurm(tmp_path, code)
    assert returned == code
    assert [call[0] for call in calls] == ["srun"]
    assert calls[0][calls[0].index("train") :] == ["train", "--config.mesh.hosts=4", *TRAIN]


def test_slurm_queues_a_saved_run_again(tmp_path):
    code, calls = run_slurm(tmp_path, 143)
    assert code == 143
    assert calls[1:] == [["scontrol", "requeue", "71"]]


GCLOUD = """
case "$4" in
  describe) tail -n 1 state || exit 1; sed -i '$d' state ;;
  ssh) [[ "$*" != *"wukong-jax train"* ]] || exit "$(cat code)" ;;
esac
"""


def fake_cloud(folder: Path, states: str, code: int) -> dict[str, str]:
    """Makes a gcloud that tells some states, in turn, and whose trainings end with a code."""
    write_program(folder / "gcloud", GCLOUD)
    write_program(folder / "git", "")
    (folder / "state").write_text("\n".join(reversed(states.split())) + "\n")
    (folder / "code").write_text(str(code))
    return {"ZONE": "z", "POLL_SECONDS": "0", "SLICES": "2"}


def list_verbs(folder: Path) -> list[str]:
    return [call[4] for call in read_calls(folder) if call[0] == "gcloud"]


def test_tpu_vms_are_awaited(tmp_path):
    own = fake_cloud(tmp_path, "", 0)
    (tmp_path / "state").unlink()
    write_program(tmp_path / "gcloud", '[[ "$4" == create ]] && echo ACTIVE >state\n' + GCLOUD)
    assert finish(start("tpu_vm.sh", tmp_path, "create", SPOT="true", **own))[0] == 0
    assert list_verbs(tmp_path) == ["describe", "create", "describe"]
    call = read_calls(tmp_path)[1]
    assert {"--node-count=2", "--spot", "--accelerator-type=v5p-32"} <= set(call)


def test_tpu_vms_that_failed_are_named(tmp_path):
    own = fake_cloud(tmp_path, "PROVISIONING PROVISIONING FAILED", 0)
    code, _, errors = finish(start("tpu_vm.sh", tmp_path, "create", **own))
    assert code == 1
    assert errors.splitlines()[-1] == "error: NAME = wukong: is FAILED; 'delete' it, then 'create' it again"
    assert "create" not in list_verbs(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 143])
def test_tpu_training_keeps_the_exit_code(tmp_path, code):
    own = fake_cloud(tmp_path, "ACTIVE", code)
    assert finish(start("tpu_vm.sh", tmp_path, "train", *TRAIN, CHIPS="8", **own))[0] == code
    (call,) = read_calls(tmp_path)
    assert {"--node=all", "--worker=all"} <= set(call)
    assert call[-1].endswith(f"train --config.mesh.hosts=2 --config.mesh.chips=8 {TRAIN[0]} {TRAIN[1]} ")


def test_tpu_training_is_told_to_stop(tmp_path):
    own = fake_cloud(tmp_path, "ACTIVE", 0)
    told = 'if [[ "$*" == *"kill -TERM"* ]]; then touch told; exit 0; fi'
    write_program(tmp_path / "gcloud", f"{told}\nuntil [[ -e told ]]; do sleep 0.05; done\nexit 143")
    running = start("tpu_vm.sh", tmp_path, "train", *TRAIN, **own)
    wait_until(lambda: read_calls(tmp_path) != [])
    running.send_signal(signal.SIGTERM)
    assert finish(running)[0] == 143
    stop = read_calls(tmp_path)[1]
    assert {"--node=0", "--worker=0"} <= set(stop)


def test_tpu_run_goes_on_after_slices_were_taken_away(tmp_path):
    own = fake_cloud(tmp_path, "ACTIVE ACTIVE SUSPENDED ACTIVE ACTIVE ACTIVE", 1)
    code, _, errors = finish(start("tpu_vm.sh", tmp_path, "run", *TRAIN, **own))
    assert code == 1, errors  # the second time, the slices are there: the training itself has failed
    assert list_verbs(tmp_path).count("delete") == 1
    assert sum("wukong-jax train" in call[-1] for call in read_calls(tmp_path)) == 2


def test_tpu_unknown_command_is_bad_usage(tmp_path):
    code, _, errors = finish(start("tpu_vm.sh", tmp_path, "trian", **fake_cloud(tmp_path, "", 0)))
    assert code == 2
    assert errors.startswith("usage error: trian: give create, install, train")
