"""One file per command: `add_arguments(parser)` and `run(arguments)`."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

DEFAULT = "configs/image_classification/digits.py"


def add_config(parser) -> None:
    """Adds --config, whose overrides are --config.key=value."""
    parser.add_argument(
        "--config",
        default=DEFAULT,
        metavar="FILE.py[:smoke]",
        help="the config to use (default %(default)s); :smoke is a variant that learns in a minute without "
        "network; --config.key=value overrides a value",
    )
    parser.set_defaults(overrides=[])


def add_workdir(parser) -> None:
    """Adds --workdir."""
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="the folder of the run")


def add_processes(parser) -> None:
    """Adds how this process finds the others of a run of several, which Slurm and the like tell anyway."""
    several = parser.add_argument_group(
        "several processes",
        "under Slurm (srun), Open MPI, Kubernetes and Cloud TPU they find each other; elsewhere tell each:",
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 listens, the same for all processes"
    )
    several.add_argument(
        "--num_processes", type=int, metavar="N", help="how many there are; 1: this one alone"
    )
    several.add_argument("--process_id", type=int, metavar="I", help="which of them this is: 0 ... N-1")
    several.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="stop when a process hands in no batch for so long while the others wait for it (default 300)",
    )


def add_data(parser) -> None:
    """Adds the places of data, and who decodes them, which commands read from the environment."""
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="prepared data sets (default $TFDS_DATA_DIR, else ~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--manual_dir",
        metavar="DIR",
        help="files downloaded by hand, looked up before the network (default $DLX_DATA_DIR)",
    )
    parser.add_argument(
        "--data_workers",
        type=int,
        metavar="N",
        help="processes that decode images beside this one, which changes nothing in what is learned "
        "(default $DLX_DATA_WORKERS, else 0: threads)",
    )


def add_mesh(parser) -> None:
    """Adds --mesh and --fsdp, which divide the work and the state among devices."""
    parser.add_argument(
        "--mesh",
        default="",
        metavar="data=N,model=M",
        help="divide the batch among N groups of devices, and within each the matrices of transformers among "
        "M (default: data over all devices); it changes nothing in what is learned, and a run may go on "
        "elsewhere",
    )
    parser.add_argument(
        "--fsdp",
        action="store_true",
        help="divide the large arrays of parameters and optimizer over the devices of data too, instead of "
        "keeping all on each",
    )


def place(arguments) -> tuple[Any, int | None]:
    """Returns the mesh of --mesh, and from how many elements on --fsdp divides arrays (None: it does not)."""
    from dlx import sharding

    return sharding.mesh(sharding.parsed(arguments.mesh)), sharding.LARGE if arguments.fsdp else None


def use_data(arguments) -> None:
    """Puts the places given on the command line where the sources look for them."""
    for variable, value in (("TFDS_DATA_DIR", arguments.data_dir), ("DLX_DATA_DIR", arguments.manual_dir)):
        if value:
            os.environ[variable] = str(Path(value).expanduser())
    if arguments.data_workers is not None:
        os.environ["DLX_DATA_WORKERS"] = str(arguments.data_workers)


def start(arguments) -> None:
    """Takes the places of data, keeps freed memory and compiled programs, and joins other processes.

    Programs are kept between runs, in $JAX_COMPILATION_CACHE_DIR or ~/.cache/dlx/xla.
    """
    from dlx import cluster, host

    host.keep_freed_memory()  # before JAX starts its threads
    import jax

    use_data(arguments)
    if "coordinator" in arguments:
        told = (arguments.coordinator, arguments.num_processes, arguments.process_id)
        cluster.start(*told, *([] if arguments.patience is None else [arguments.patience]))
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what Orbax logs as errors, it raises as well
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/dlx/xla").expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def tell(text: str) -> None:
    """Prints a line for the user to standard error; of several processes the first one does."""
    import jax

    if jax.process_index() == 0:
        print(text, file=sys.stderr)
