import json
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import same

from dlx import sharding
from dlx.checkpoint import CheckpointError, check, store
from dlx.core import TrainState, Variables

# TensorStore answers reads that fail after Orbax has closed the event loop that asked.
orphans = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def make(step: int, width: int = 64) -> TrainState:
    kernel, mean = (jax.random.normal(jax.random.key(step), (n, 3)) for n in (width, 1))
    params = {"layer": {"kernel": kernel, "half": kernel[:5].astype(jnp.bfloat16)}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    variables = Variables(params, {"batch_stats": {"mean": mean}})
    return TrainState(jnp.int32(step), variables, optimizer.init(params))


def layout(state, mesh=None):
    mesh = mesh or sharding.mesh(devices=jax.devices()[:1])
    return sharding.layout(jax.eval_shape(lambda: state), mesh)


def saved(workdir, *steps):
    with store(workdir) as opened:
        for step in steps:
            opened.save(step, make(step))
    return workdir / "checkpoints"


def restored(workdir, like=None):
    with store(workdir) as opened:
        return opened.restore(layout(like or make(0)))


def test_a_round_trip_is_exact_in_values_types_and_structure(tmp_path):
    saved(tmp_path, 1, 2)
    assert same(restored(tmp_path), make(2))


def test_nothing_saved_restores_nothing_and_writes_nothing(tmp_path):
    assert restored(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_only_the_newest_are_kept(tmp_path):
    root = saved(tmp_path, 1, 2, 3, 4)
    assert sorted(p.name for p in root.iterdir() if p.is_dir()) == ["3", "4"]


def test_a_state_saved_on_one_device_restores_onto_eight(tmp_path):
    saved(tmp_path, 3)
    mesh = sharding.mesh()
    with store(tmp_path) as opened:
        state = opened.restore(layout(make(0), mesh))
    assert same(state, make(3))
    assert all(leaf.sharding.mesh == mesh for leaf in jax.tree.leaves(state))


def data_files(root):
    return [p for p in root.rglob("*") if p.is_file() and p.parent.name == "d"]


@orphans
def test_a_flipped_bit_anywhere_in_the_data_is_noticed_and_the_step_before_is_used(tmp_path):
    root = saved(tmp_path, 1, 2)
    noticed = 0
    for file in data_files(root / "2"):
        intact = file.read_bytes()
        for position in np.linspace(0, len(intact) - 1, 6).astype(int):
            damaged = bytearray(intact)
            damaged[position] ^= 1
            file.write_bytes(damaged)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                state = restored(tmp_path)
            passed_over = any("checkpoints/2" in str(w.message) for w in caught)
            assert same(state, make(1 if passed_over else 2))  # never the damaged numbers
            noticed += passed_over
        file.write_bytes(intact)
    assert noticed >= 6  # the bytes of at least one file are all read


@orphans
def test_a_flipped_bit_that_would_load_silently_fails_the_checksum_of_its_leaf(tmp_path):
    """Of large arrays: TensorStore keeps small ones in nodes that have checksums of their own."""
    states = {step: make(step, width=4096) for step in (1, 2)}
    with store(tmp_path) as opened:
        for step, state in states.items():
            opened.save(step, state)
    file = max(data_files(tmp_path / "checkpoints" / "2"), key=lambda path: path.stat().st_size)
    intact, rng, told = file.read_bytes(), np.random.default_rng(0), []
    for position in rng.integers(0, len(intact), 6):
        broken = bytearray(intact)
        broken[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(broken)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            assert same(restored(tmp_path, states[1]), states[1 if found else 2])
        told += [str(warning.message) for warning in found]
    assert any("fails its checksum in " in text and "layer/kernel" in text for text in told), told


@orphans
def test_a_truncated_or_missing_file_falls_back_and_the_step_can_be_saved_again(tmp_path):
    root = saved(tmp_path, 1, 2)
    for file in data_files(root / "2"):
        file.write_bytes(file.read_bytes()[:10])
    with store(tmp_path) as opened:
        with pytest.warns(RuntimeWarning, match="passed over"):
            assert same(opened.restore(layout(make(0))), make(1))
        opened.save(2, make(2))
    assert same(restored(tmp_path), make(2))
    assert (root / "2.damaged").is_dir()  # nothing is thrown away


def test_when_every_step_is_damaged_it_says_so_and_does_not_start_again(tmp_path):
    root = saved(tmp_path, 5)
    (root / "5" / "manifest" / "metadata").unlink()
    with pytest.warns(RuntimeWarning), pytest.raises(CheckpointError, match="every checkpoint.*damaged: 5"):
        restored(tmp_path)


def test_stray_and_half_written_folders_are_ignored(tmp_path):
    root = saved(tmp_path, 1)
    (root / "9").mkdir()
    (root / "7.orbax-checkpoint-tmp").mkdir()
    assert same(restored(tmp_path), make(1))
    with store(tmp_path) as opened:
        opened.save(9, make(9))
    assert same(restored(tmp_path), make(9))
    assert (root / "1").is_dir() and not (root / "7.orbax-checkpoint-tmp").exists()


def test_a_directory_that_is_not_ours_is_refused_untouched(tmp_path):
    foreign = tmp_path / "checkpoints"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"no dlx\.json.*untouched"), store(tmp_path):
        pass
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]


def test_another_model_is_refused_with_every_difference_listed(tmp_path):
    saved(tmp_path, 1)
    other = make(0, width=32)
    other.variables.params["extra"] = jnp.zeros(2)
    with pytest.raises(CheckpointError) as caught:
        restored(tmp_path, other)
    message = str(caught.value)
    assert "missing: variables/params/extra" in message
    assert "variables/params/layer/kernel: saved ([64, 3], 'float32'), wanted ([32, 3], 'float32')" in message


def test_a_failed_save_says_what_is_left(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    import orbax.checkpoint as ocp

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with (
        pytest.raises(
            CheckpointError, match="could not be written.*at step 2.*No space left.*step 1 is intact"
        ),
        store(tmp_path) as opened,
    ):
        opened.save(2, make(2))
    assert same(restored(tmp_path), make(1))


def test_the_manifest_names_every_leaf(tmp_path):
    root = saved(tmp_path, 1)
    manifest = json.loads((root / "1" / "manifest" / "metadata").read_text())["leaves"]
    assert manifest["variables/params/layer/half"]["dtype"] == "bfloat16"
    assert len(manifest) == len(jax.tree.leaves(make(1)))


def test_a_manifest_that_another_model_might_have_written_is_damaged_and_not_another_model(tmp_path):
    """One flipped bit in a name: the error of another model would keep the run from going on."""
    root = saved(tmp_path, 1, 2)
    file = root / "2" / "manifest" / "metadata"
    file.write_text(file.read_text().replace("layer/half", "layer/hald"))
    with pytest.warns(RuntimeWarning, match="step|fails its own checksum"):
        assert same(restored(tmp_path), make(1))


def test_what_an_interrupted_deletion_left_is_deleted_and_a_newer_wreck_kept(tmp_path):
    root = saved(tmp_path, 3, 4)
    (root / "3" / "_CHECKPOINT_METADATA").unlink()
    (root / "6" / "state").mkdir(parents=True)
    with store(tmp_path) as opened:
        with pytest.warns(RuntimeWarning, match="checkpoint .*/6 has no readable manifest.*passed over"):
            assert same(opened.restore(layout(make(0))), make(4))
        opened.save(5, make(5))
    assert sorted(p.name for p in root.iterdir() if p.is_dir()) == ["4", "5", "6.damaged"]


def test_a_step_that_is_damaged_twice_is_put_aside_twice(tmp_path):
    root = saved(tmp_path, 1)
    for elsewhere in ("here", "there"):
        with store(tmp_path) as opened:
            opened.save(2, make(2))
        (root / "2" / "manifest" / "metadata").unlink()
        with store(tmp_path) as opened, pytest.warns(RuntimeWarning, match="passed over"):
            assert same(opened.restore(layout(make(0))), make(1))
            opened.save(3, make(3))
        (root / "3").rename(root / elsewhere)
    assert {"2.damaged", "2.damaged2"} <= {p.name for p in root.iterdir()}


def test_the_sums_of_a_save_are_those_of_that_step_though_its_buffers_are_donated(tmp_path):
    state, step = make(1), jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    with store(tmp_path) as opened:
        for number in range(1, 4):
            opened.save(number, state)
            state = step(state)
    found = restored(tmp_path)
    assert int(found.step) == 3 and same(step(found), state)


def test_the_best_step_stays_with_its_score_and_is_the_one_to_restore(tmp_path):
    with store(tmp_path) as opened:
        assert opened.best(0) == -math.inf and opened.restore(layout(make(0)), best=True) is None
        for step, score in enumerate([None, 0.5, None, 0.75, None, None, None], 1):
            opened.save(step, make(step), score)
    root = tmp_path / "checkpoints"
    assert sorted(int(p.name) for p in root.iterdir() if p.is_dir()) == [4, 6, 7]
    with store(tmp_path) as opened:
        assert same(opened.restore(layout(make(0))), make(7))
        assert same(opened.restore(layout(make(0)), best=True), make(4))
        assert opened.best(3) == -math.inf and opened.best(7) == 0.75
        opened.save(8, make(8))  # opened anew, the best stays all the same
    assert sorted(int(p.name) for p in root.iterdir() if p.is_dir()) == [4, 7, 8]


def test_a_damaged_best_step_is_an_error_and_never_another_step(tmp_path):
    with store(tmp_path) as opened:
        for step, score in enumerate([0.5, 0.75, None, None, None], 1):
            opened.save(step, make(step), score)
    manifest = tmp_path / "checkpoints" / "2" / "manifest" / "metadata"
    whole = manifest.read_text()
    manifest.write_text(whole.replace("0.75", "0.74"))
    with store(tmp_path) as opened:
        assert same(opened.restore(layout(make(0))), make(5))
        with pytest.raises(CheckpointError, match="2 has a manifest that fails its own checksum"):
            opened.restore(layout(make(0)), best=True)
        with pytest.raises(CheckpointError, match="2 has a manifest that fails its own checksum"):
            opened.best(5)
    held = json.loads(whole)
    held["leaves"]["step"]["sum"] = "another"
    manifest.write_text(json.dumps(held | {"crc32": check(held["leaves"], held["score"])}))
    message = "the best checkpoint under .* is damaged: 2"
    with (
        store(tmp_path) as opened,
        pytest.warns(RuntimeWarning, match="passed over"),
        pytest.raises(CheckpointError, match=message),
    ):
        opened.restore(layout(make(0)), best=True)
