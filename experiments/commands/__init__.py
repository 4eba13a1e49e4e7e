"""One file per command: `add_arguments(parser)` and `run(arguments)`."""

import logging
import os
from pathlib import Path

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


def add_data(parser) -> None:
    """Adds the places of data, which commands read from the environment."""
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


def use_data(arguments) -> None:
    """Puts the places given on the command line where the sources look for them."""
    for variable, value in (("TFDS_DATA_DIR", arguments.data_dir), ("DLX_DATA_DIR", arguments.manual_dir)):
        if value:
            os.environ[variable] = str(Path(value).expanduser())


def start(arguments) -> None:
    """Takes the places of data from the arguments; keeps freed memory, and compiled programs between runs.

    They are kept in $JAX_COMPILATION_CACHE_DIR or ~/.cache/dlx/xla.
    """
    from dlx import host

    host.keep_freed_memory()  # before JAX starts its threads
    import jax

    use_data(arguments)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what Orbax logs as errors, it raises as well
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/dlx/xla").expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
