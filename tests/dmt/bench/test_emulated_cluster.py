"""Tests the emulated cluster: correct results, rate limits, counters equal to closed forms, complete clean-up."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from dmt.bench import namespace_cleanup
from dmt.bench.cluster_process import serve
from dmt.bench.emulated_cluster import EmulatedCluster, WorkerError
from dmt.bench.network_namespaces import HostNetwork
from tests.repository import ROOT as REPOSITORY
from wukong_jax.errors import UserError

WORKER = [sys.executable, str(Path(__file__).with_name("emulated_worker.py"))]
HOSTS, CHIPS = 4, 2
ELEMENTS = 1 << 18  # 1 MiB of float32 a device
PAYLOAD = 4 * ELEMENTS


@pytest.fixture(scope="module")
def namespaces():
    """Skips the test, with the reason a user would see, if network namespaces cannot be created."""
    try:
        HostNetwork(1, 9000).remove()
    except UserError as error:
        pytest.skip(str(error))


needs_namespaces = pytest.mark.usefixtures("namespaces")


@pytest.fixture(scope="module")
def cluster(namespaces):
    with EmulatedCluster(HOSTS, CHIPS) as made:
        made.start(WORKER, {"PYTHONPATH": str(REPOSITORY)})
        yield made


@pytest.fixture
def unlimited(cluster):
    cluster.set_rate(None)
    return cluster


def measure_sent(cluster, collective, axes, steps=2):
    """Returns the bytes each host sends per step: the difference of 2N and N steps, without a call's fixed cost."""
    job = {"collective": collective, "axes": axes, "elements": ELEMENTS}
    cluster.call("run", steps=1, **job)  # connections are made on first use
    readings = [cluster.read_counters()]
    for count in (steps, 2 * steps):
        cluster.call("run", steps=count, **job)
        readings.append(cluster.read_counters())
    spans = [[later - earlier for earlier, later in zip(*pair, strict=True)] for pair in itertools.pairwise(readings)]
    return [(long.sent_bytes - short.sent_bytes) / steps for short, long in zip(*spans, strict=True)]


@needs_namespaces
def test_all_to_all_over_both_axes_equals_its_twin(unlimited):
    results = unlimited.call("run", collective="all_to_all", axes=["host", "chip"], elements=ELEMENTS, steps=1)
    devices = HOSTS * CHIPS
    block = ELEMENTS // devices
    everything = np.arange(devices * ELEMENTS, dtype=np.float32).reshape(devices, devices, block)
    expected = everything.transpose(1, 0, 2)[
        :, :, 0
    ]  # block s of device d is block d of device s; first element of each
    found = [shard for result in results for shard in result["firsts"]]
    assert [result["devices"] for result in results] == [devices] * HOSTS
    np.testing.assert_array_equal(np.array(found, np.float32), expected)


# Headers are 66 of 9,014 bytes and acknowledgements less than that; the rest of the tenth is for probes TCP sends again
# when a busy machine answers late.
@needs_namespaces
@pytest.mark.parametrize(
    ("collective", "axes", "expected"),
    [
        ("all_to_all", ["host", "chip"], CHIPS * (HOSTS - 1) / HOSTS),
        ("all_to_all", ["host"], CHIPS * (HOSTS - 1) / HOSTS),
        ("all_gather", ["host"], CHIPS * (HOSTS - 1)),
        ("all_gather", ["host", "chip"], HOSTS * CHIPS - 1),
        ("all_reduce", ["host", "chip"], 2 * (1 - 1 / (HOSTS * CHIPS))),
    ],
)
def test_counters_match_closed_form(unlimited, collective, axes, expected):
    unlimited.set_rate(1000)
    sent = measure_sent(unlimited, collective, axes)
    assert np.mean(sent) / PAYLOAD == pytest.approx(expected, rel=0.1)


@needs_namespaces
def test_collectives_inside_a_host_cross_no_link(unlimited):
    assert max(measure_sent(unlimited, "all_to_all", ["chip"])) < 0.01 * PAYLOAD


@needs_namespaces
def test_link_keeps_its_rate_and_limit_costs_time(unlimited):
    job = {"collective": "all_gather", "axes": ["host"], "elements": ELEMENTS}
    unlimited.call("run", steps=1, **job)
    fast = max(result["seconds"] for result in unlimited.call("run", steps=2, **job))
    unlimited.set_rate(100)
    slow = max(result["seconds"] for result in unlimited.call("run", steps=2, **job))
    ideal = 2 * CHIPS * (HOSTS - 1) * PAYLOAD * 8 / 100e6
    # Faster by no more than the bursts of a link's two ends; slower by what a shared machine's cores cost.
    assert 0.97 * ideal < slow < 1.3 * ideal
    assert fast < 0.5 * slow


@needs_namespaces
def test_failed_command_names_host_and_reason_and_workers_start_again():
    with EmulatedCluster(2, 1) as cluster:
        with pytest.raises(UserError, match=r"call start\(\) first"):
            cluster.call("fail", host=1)
        cluster.start(WORKER, {"PYTHONPATH": str(REPOSITORY)})
        with pytest.raises(WorkerError, match=r"(?s)host 1: 'fail' failed: ValueError: asked to.*about to fail"):
            cluster.call("fail", host=1)
        cluster.start(WORKER, {"PYTHONPATH": str(REPOSITORY)})
        with pytest.raises(WorkerError, match=r"(?s)host 0: its process ended \(exit 7\).*last words"):
            cluster.call("end", host=0)


@needs_namespaces
def test_worker_that_cannot_start_is_reported_with_its_log():
    with (
        EmulatedCluster(1, 1) as cluster,
        pytest.raises(WorkerError, match=r"(?s)host 0: its process ended \(exit 3\).*no such model"),
    ):
        cluster.start([sys.executable, "-c", "import sys; print('no such model'); sys.exit(3)"])


@needs_namespaces
def test_silent_worker_is_reported_after_its_time():
    with (
        EmulatedCluster(1, 1) as cluster,
        pytest.raises(WorkerError, match=r"hosts \[0\] did not answer 'start' within"),
    ):
        cluster.start(["sleep", "60"], timeout_seconds=0.3)


# The driver's workers, and their children, would live for a minute: nothing but the cluster ends them.
DRIVER = """
import sys, time
from dmt.bench.emulated_cluster import EmulatedCluster
WORKER = (
    "import os, subprocess, time; subprocess.Popen(['sleep', '60'], start_new_session=True);"
    "os.write(int(os.environ['EMULATED_RESULTS_FD']), b'{}' + bytes([10])); time.sleep(60)"
)
with EmulatedCluster(3, 2) as cluster:
    cluster.set_rate(100)
    cluster.start([sys.executable, "-c", WORKER])
    print("started", flush=True)
    sys.stdin.readline()
    HOW
"""


@contextlib.contextmanager
def run_driver(how):
    """Starts a driver and its cluster; yields it, the cluster's name prefix, and the mark of its processes."""
    mark = f"TEST_MARK={uuid.uuid4()}"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.replace("HOW", how)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **dict([mark.split("=")])},
    )
    try:
        assert driver.stdout.readline() == "started\n"
        prefix = f"dmt-{driver.pid}-"
        assert len(namespace_cleanup.list_names(prefix)) == 4
        yield driver, prefix, mark
    finally:
        driver.kill()
        driver.wait()
        driver.stdin.close()
        driver.stdout.close()


def find_processes(mark):
    """Returns the command lines of live processes with the mark in their environment, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_text(errors="replace").split("\0"):
                found[int(folder.name)] = (folder / "cmdline").read_text(errors="replace")
    return found


def wait_for_processes(mark, number):
    """Waits for processes with the mark; a process that is just starting has no readable environment yet."""
    deadline = time.monotonic() + 10
    while len(find_processes(mark)) != number:
        assert time.monotonic() < deadline, find_processes(mark)
        time.sleep(0.05)


def assert_all_gone(prefix, mark, seconds):
    deadline = time.monotonic() + seconds
    while namespace_cleanup.list_names(prefix) or find_processes(mark):
        assert time.monotonic() < deadline, (namespace_cleanup.list_names(prefix), find_processes(mark))
        time.sleep(0.05)


@needs_namespaces
@pytest.mark.parametrize(
    ("how", "number", "code"),
    [
        ("", None, 0),
        ("raise RuntimeError('wrong')", None, 1),
        ("", signal.SIGTERM, 143),
        ("", signal.SIGINT, 130),
        ("", signal.SIGKILL, -9),
    ],
    ids=["end", "exception", "SIGTERM", "SIGINT", "SIGKILL"],
)
def test_nothing_stays_behind(how, number, code):
    interfaces = os.listdir("/sys/class/net")
    with run_driver(how) as (driver, prefix, mark):
        assert os.listdir("/sys/class/net") == interfaces  # none of the cluster's even while it lives
        wait_for_processes(mark, 8)  # driver, watchdog, three workers with a child each
        if number is None:
            driver.stdin.close()
        else:
            driver.send_signal(number)
        assert driver.wait(timeout=30) == code
        # Only a killed driver leaves the work to its watchdog; it needs a second without anything found to end.
        assert_all_gone(prefix, mark, seconds=15 if number == signal.SIGKILL else 0.5)


@needs_namespaces
def test_next_cluster_removes_what_a_dead_owner_and_watchdog_left():
    other = HostNetwork(1, 9000)
    try:
        with run_driver("") as (driver, prefix, mark):
            wait_for_processes(mark, 8)
            for pid, command in find_processes(mark).items():
                if "namespace_cleanup" in command:
                    os.kill(pid, signal.SIGKILL)
            driver.kill()
            driver.wait()
            assert len(namespace_cleanup.list_names(prefix)) == 4
            HostNetwork(1, 9000).remove()
            assert_all_gone(prefix, mark, seconds=0.5)
            assert len(namespace_cleanup.list_names(other.prefix)) == 2  # a living owner's stay
    finally:
        other.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_without_root_one_line_says_so():
    text = """
import os
from dmt.bench.emulated_cluster import EmulatedCluster
os.setuid(65534)
EmulatedCluster(2, 1).__enter__()
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.stderr.splitlines()[-1] == (
        "wukong_jax.errors.UserError: emulated cluster: user id 65534 may not make network namespaces; "
        "run as root (id 0), with sudo"
    )


def test_without_iproute2_one_line_says_so(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="'ip' not found on PATH; install iproute2"):
        HostNetwork(2, 9000)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EmulatedCluster(2, 0), "chips=0; must be 1 or more"),
        (lambda: HostNetwork(0, 9000), "hosts=0; must be 1 to 250"),
        (lambda: HostNetwork(251, 9000), "hosts=251; must be 1 to 250"),
        (lambda: HostNetwork(2, 100), "mtu=100; must be 1280 to 65535"),
        (lambda: EmulatedCluster(2, 1).set_rate(100), "not made yet"),
        (lambda: serve({}), "EMULATED_HOST is not set"),
    ],
)
def test_mistake_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()


@needs_namespaces
@pytest.mark.parametrize("rate", [0, -5, float("nan")])
def test_rate_that_is_not_positive_is_refused(unlimited, rate):
    with pytest.raises(UserError, match="must be above 0, or None for unlimited"):
        unlimited.set_rate(rate)
