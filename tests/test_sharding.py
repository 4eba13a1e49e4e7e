import jax
import pytest
from jax.sharding import AxisType

from dlx import feed, sharding


def test_a_mesh_takes_the_devices_that_are_left_and_its_axes_are_auto():
    mesh = sharding.mesh({"model": 2})
    assert dict(mesh.shape) == {"data": 4, "model": 2}
    assert set(mesh.axis_types) == {AxisType.Auto}  # Linen's convolutions need them


@pytest.mark.parametrize(
    "shape, message",
    [({"dta": 2}, "unknown mesh axes"), ({"data": 3}, "does not fit 8"), ({"model": 0}, "not fit")],
)
def test_a_mesh_that_cannot_be_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        sharding.mesh(shape)


@pytest.mark.parametrize("size, hint", [(12, "8 or 16"), (3, "8"), (0, "8")])
def test_a_batch_that_cannot_be_divided_names_sizes_that_can(size, hint):
    with pytest.raises(ValueError, match=f"multiple of 8, for example {hint}$"):
        sharding.check_batch(size, sharding.mesh())
    sharding.check_batch(16, sharding.mesh())


def test_a_placed_batch_is_split_over_data(line):
    with jax.set_mesh(sharding.mesh({"model": 2})):
        placed = feed.place(line[0].batch(0))
    assert placed["x"].sharding.shard_shape(placed["x"].shape) == (4, 3)
    batch = line[0].batch(0)
    assert feed.place(batch) is batch  # on one device the step itself takes it


def test_one_process_reads_every_row():
    assert feed.rows(12) == slice(0, 12)
