"""Tests how a process finds its place among others: flags first, then what a cluster's launcher says."""

import pytest

from wukong_jax.errors import UserError
from wukong_jax.sharding.cluster_place import find_place
from wukong_jax.sharding.team_connection import TeamPlace

# As `srun` sets them on the second of two hosts with two tasks each.
SLURM = {
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NODEID": "1",
}


@pytest.fixture(autouse=True)
def outside_clusters(monkeypatch):
    gpus = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "JAX_LOCAL_DEVICE_IDS", "SLURM_GPUS_PER_TASK")
    for name in (*SLURM, *gpus, "JAX_COORDINATOR_PORT", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)


def set_slurm(monkeypatch, **changes):
    for name, value in (SLURM | changes).items():
        monkeypatch.setenv(name, value)


def test_nothing_given_is_one_process():
    assert find_place("", None, None) is None


def test_flags_name_the_place():
    assert find_place("10.0.0.1:1234", 4, 3) == TeamPlace("10.0.0.1:1234", 4, 3)


def test_slurm_names_the_place_and_one_gpu_a_task(monkeypatch):
    set_slurm(monkeypatch)
    port = 71 % 2**12 + 65535 - 2**12 + 1  # as JAX chooses it, the same on every host
    assert find_place("", None, None) == TeamPlace(f"gpu03:{port}", 4, 2, (0,))


def test_a_task_that_sees_only_its_own_gpu_takes_it(monkeypatch):
    set_slurm(monkeypatch, SLURM_LOCALID="1", CUDA_VISIBLE_DEVICES="1")
    place = find_place("", None, None)
    assert place is not None
    assert place.gpu_ids is None


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        # As SLURM 22.05 sets them for one task a node, two tasks that see all, and two that see their own.
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "CUDA_VISIBLE_DEVICES": "0,1"}, None),
        ({"SLURM_LOCALID": "0", "CUDA_VISIBLE_DEVICES": "0,1"}, (0,)),
        ({"SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "0,1"}, (1,)),
        ({"SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "1", "SLURM_GPUS_PER_TASK": "1"}, None),
        ({"SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_PER_TASK": "2"}, None),
        ({"SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}, (2, 3)),
        ({"SLURM_LOCALID": "2", "SLURM_STEP_TASKS_PER_NODE": "1,3", "CUDA_VISIBLE_DEVICES": "0,1,2"}, (2,)),
        ({"SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "0,1", "JAX_LOCAL_DEVICE_IDS": "0"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "", "SLURM_LOCALID": "1"}, (1,)),
    ],
)
def test_gpus_of_a_node_are_dealt_out_to_its_tasks(monkeypatch, changes, ids):
    set_slurm(monkeypatch, **changes)
    place = find_place("", None, None)
    assert place is not None
    assert place.gpu_ids == ids


def test_gpus_that_do_not_divide_are_refused(monkeypatch):
    set_slurm(monkeypatch, CUDA_VISIBLE_DEVICES="0,1,2")
    with pytest.raises(UserError, match="3 GPUs do not divide over the 2 processes of this host"):
        find_place("", None, None)


def test_flags_beat_slurm(monkeypatch):
    set_slurm(monkeypatch)
    assert find_place("10.0.0.1:1234", 2, 1) == TeamPlace("10.0.0.1:1234", 2, 1)
    place = find_place("10.0.0.1:1234", None, None)
    assert place is not None
    assert (place.coordinator, place.processes, place.process) == ("10.0.0.1:1234", 4, 2)


def test_one_task_of_slurm_is_one_process(monkeypatch):
    set_slurm(monkeypatch, SLURM_NTASKS="1", SLURM_PROCID="0")
    assert find_place("", None, None) is None


def test_one_process_is_alone_in_a_cluster_too(monkeypatch):
    set_slurm(monkeypatch)
    assert find_place("", 1, None) is None


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("h:1", None, None), "--processes: is missing"),
        (("h:1", 2, None), "--process: is missing"),
        (("", 2, 0), "--coordinator: is missing"),
        (("h:1", 2, 2), r"--process = 2: must lie in \[0, 2\)"),
        (("h", 2, 0), "--coordinator = 'h': is not HOST:PORT"),
        (("h:1", 1, None), "--processes = 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(flags, line):
    with pytest.raises(UserError, match=line):
        find_place(*flags)


def test_variables_that_cannot_be_read_are_refused_with_a_way_out(monkeypatch):
    set_slurm(monkeypatch, SLURM_NTASKS="many")
    with pytest.raises(UserError, match=r"SlurmCluster: its variables cannot be read .*--processes=1"):
        find_place("", None, None)


def test_a_server_that_does_not_answer_is_told_with_a_way_out(monkeypatch):
    def ask():
        raise ConnectionError("no route")

    monkeypatch.setattr("jax._src.clusters.GceTpuCluster.is_env_present", ask)
    with pytest.raises(UserError, match=r"GceTpuCluster: its variables cannot be read \(ConnectionError: no route\)"):
        find_place("", None, None)
    assert find_place("10.0.0.1:1234", 4, 3) == TeamPlace("10.0.0.1:1234", 4, 3)
