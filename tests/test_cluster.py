"""Who is to connect to whom, with the environments of clusters faked, and when a process counts as stuck."""

import types

import jax
import numpy as np
import pytest
from jax._src import clusters
from test_configs import CONFIGS, ROOT

from dlx import cluster, configuration, evaluate, feed
from dlx.cluster import ClusterError, plan
from experiments import anomaly_detection, forecasting, runs

SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_NODELIST": "gpu[007-010,012]",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "4",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}
NOTHING = {"coordinator_address": None, "num_processes": None, "process_id": None}


def asked(flags, environment):
    """What JAX itself makes of its arguments in an environment: address, count, id, and devices."""
    values = plan(*flags, environment)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        address, count, index, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            *values.values(), None, values.get("cluster_detection_method"), 1
        )
    return address, count, index, local


def test_a_process_of_its_own_connects_to_nobody():
    assert plan(None, None, None, {}) is None
    assert plan(None, 1, None, SLURM) is None and plan("host:1", 1, 0, {}) is None
    for lonely in (
        SLURM | {"SLURM_NTASKS": "1"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"},  # the script of a job, not a task of srun
        OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # a pod, but of no indexed Job
        {"TPU_WORKER_HOSTNAMES": "localhost", "JAX_COORDINATOR_ADDRESS": "host:1"},
    ):
        assert plan(None, None, None, lonely) is None


def test_flags_say_it_all_and_nothing_else_is_looked_for():
    values = plan("10.0.0.7:1234", 4, 0, {})
    assert values == {
        "coordinator_address": "10.0.0.7:1234",
        "num_processes": 4,
        "process_id": 0,
        "cluster_detection_method": "deactivate",
    }
    assert plan(None, 4, 3, {"JAX_COORDINATOR_ADDRESS": "a:1"})["coordinator_address"] == "a:1"


def test_slurm_and_open_mpi_are_found_and_jax_finds_the_same():
    assert plan(None, None, None, SLURM) == NOTHING
    assert asked((None, None, None), SLURM) == ("gpu007:61586", 8, 5, [1])
    assert asked(("there:99", None, None), SLURM) == ("there:99", 8, 5, [1])
    address, count, index, local = asked((None, None, None), OPEN_MPI)
    assert address.startswith("10.96.0.1:") and (count, index, local) == (4, 3, [1])
    newer = {name: value for name, value in OPEN_MPI.items() if "orte" not in name}
    values = plan("head:99", None, None, newer)
    assert (values["coordinator_address"], values["num_processes"], values["process_id"]) == ("head:99", 4, 3)
    with pytest.raises(ClusterError, match="mpirun started 4 processes.* give all of them --coordinator"):
        plan(None, None, None, newer)


@pytest.mark.parametrize(
    "environment",
    [
        KUBERNETES,
        {"TPU_WORKER_HOSTNAMES": "10.0.0.2,10.0.0.3", "TPU_WORKER_ID": "1"},
        {"TPU_PROCESS_ADDRESSES": "10.0.0.2:8476,10.0.0.3:8476"},
        {"TPU_WORKER_HOSTNAMES": "one", "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "0"},
        {"TPU_ML_PLATFORM": "JAX"},
    ],
    ids=["kubernetes", "tpu hosts", "tpu addresses", "tpu slices", "a tpu host"],
)
def test_where_only_jax_can_ask_for_the_rest_it_is_left_to_jax(environment):
    assert plan(None, None, None, environment) == NOTHING


@pytest.mark.parametrize(
    "flags, environment, message",
    [
        ((None, 2, None), {}, "--coordinator=HOST:PORT and --process_id=I must be given too"),
        (("a:1", None, None), {}, "--num_processes=N and --process_id=I must be given too"),
        (("a:1", 2, 2), {}, "--process_id=2; processes are numbered from 0 to 1, for there are 2"),
        (("a:1", 2, -1), {}, "--process_id=-1; processes are numbered from 0 to 1"),
        (("a:1", 0, 0), {}, "--num_processes=0; a run has at least 1"),
        (("a", 2, 0), {}, "--coordinator=a; it is HOST:PORT"),
        ((None, 4, None), SLURM, "--num_processes=4, but Slurm says 8: leave the flag out"),
        ((None, None, 1), SLURM, "--process_id=1, but Slurm says 5"),
        ((None, 2, None), OPEN_MPI, "--num_processes=2, but Open MPI says 4"),
        ((None, 8, 0), KUBERNETES, "--process_id=0, but Kubernetes says 2"),
    ],
)
def test_what_is_incomplete_or_contradicts_itself_is_refused(flags, environment, message):
    with pytest.raises(ClusterError, match=message):
        plan(*flags, environment)


def test_jax_is_called_with_what_was_planned_and_hears_the_patience(monkeypatch):
    called = []

    def initialize(**arguments):
        called.append(arguments)
        raise RuntimeError("nobody is there")

    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ClusterError, match=r"did not come together \(coordinator_address a:1\): nobody"):
        cluster.start("a:1", patience=20)
    with pytest.raises(ClusterError, match="did not come together"):
        cluster.start()
    assert [call["heartbeat_timeout_seconds"] for call in called] == [66, 156]
    assert called[0]["coordinator_address"] == "a:1" and called[0]["shutdown_timeout_seconds"] == 41
    monkeypatch.setenv("SLURM_NTASKS", "1")
    cluster.start()
    assert len(called) == 2
    with pytest.raises(ClusterError, match="--patience=0; it is a time"):
        cluster.start(patience=0)


def test_a_process_is_behind_from_when_others_are_ahead_until_it_moves():
    def look(beats, late, now):
        return cluster.since(cluster.behind(beats), late, now)

    late = look({0: 5, 1: 5}, {}, 100.0)
    assert late == {}  # however long: an evaluation, a compilation
    late = look({0: 6, 1: 5, 2: 6}, late, 200.0)
    assert late == {1: (5, 200.0)}
    assert look({0: 6, 1: 5, 2: 6}, late, 300.0) == {1: (5, 200.0)}
    assert look({0: 9, 1: 6, 2: 6}, late, 300.0) == {1: (6, 300.0), 2: (6, 300.0)}
    assert look({0: 6, 1: 6, 2: 6}, late, 300.0) == {}
    assert look({}, late, 300.0) == {}  # all have left


class Device:
    """A device of a mesh, of which only the process counts here."""

    def __init__(self, process_index):
        self.process_index = process_index


@pytest.mark.parametrize(
    "processes, expected",
    [
        ([[0, 0], [1, 1]], [slice(0, 12), slice(12, 24)]),  # 2 x 2, the axis "model" within a process
        ([[0, 1], [0, 1]], [slice(0, 24)] * 2),  # across them: both read all
        ([[0], [1], [0], [1]], [[*range(6), *range(12, 18)], [*range(6, 12), *range(18, 24)]]),
    ],
)
def test_rows_are_those_of_the_parts_that_a_process_has_devices_of(processes, expected, monkeypatch):
    devices = np.vectorize(Device, otypes=[object])(np.array(processes))
    axes = ("data", "model")
    shape = dict(zip(axes, devices.shape, strict=True))
    mesh = types.SimpleNamespace(empty=False, axis_names=axes, devices=devices, shape=shape)
    monkeypatch.setattr(jax.sharding, "get_mesh", lambda: mesh)
    for index, rows in enumerate(expected):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        read = np.arange(24)[feed.rows(24)]
        np.testing.assert_array_equal(read, np.arange(24)[rows])
        assert feed.whole(len(read)) == 24
    if len(processes) == 4:
        with pytest.raises(ValueError, match="a batch of 6 cannot be divided among the 4 devices"):
            feed.rows(6)


def test_without_a_mesh_nobody_knows_which_rows_a_process_reads(monkeypatch):
    assert feed.rows(12) == slice(0, 12)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="within jax.set_mesh"):
        feed.rows(12)


def joined(parts):
    """The rows of all processes, leaf by leaf."""
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_two_processes_read_the_rows_of_the_batch_that_one_reads(file, monkeypatch, tmp_path):
    """For every config, in training and in each pass of an evaluator, at the first and some later batch."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("DLX_DATA_DIR", raising=False)
    config = configuration.load(f"{file}:smoke")
    passes = []
    for module in (evaluate, anomaly_detection):
        monkeypatch.setattr(module, "outputs", lambda examples, function: passes.append(examples))
    read = []
    for count, held in ((1, [0]), (2, [0]), (2, [1])):
        monkeypatch.setattr(feed, "parts", lambda count=count, held=held: (count, held))
        passes.clear()
        stages = [runs.build(stage).task for _, stage in runs.stages(config)]
        trained = [task.batch(step) for task in stages for step in (0, 7)]
        read.append((trained, [list(examples()) for examples in passes]))
    whole, *halves = read
    jax.tree.map(np.testing.assert_array_equal, joined(halves), whole)


def test_what_a_process_computes_by_itself_is_of_all_rows(monkeypatch):
    """The errors of naive forecasts, to which those of the model are compared, need no devices."""
    config = configuration.load(f"{ROOT}/configs/forecasting/co2.py:smoke")
    monkeypatch.setattr(feed, "parts", lambda: (1, [0]))
    whole = forecasting.naive_rows(config, "test")
    monkeypatch.setattr(feed, "parts", lambda: (2, [1]))
    assert forecasting.naive_rows(config, "test") == whole
