"""Download and verify data sets."""

from experiments import commands


def add_arguments(parser) -> None:
    """Adds the names of data sets, or --config for the one that a config uses."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="data sets, such as mnist or etth1; none: --config's"
    )
    commands.add_config(parser)
    commands.add_data(parser)


def run(arguments) -> None:
    """Prepares each data set and prints where it lies."""
    from dlx import configuration
    from dlx.data import builders, sources
    from dlx.data.series_sources import SERIES

    commands.use_data(arguments)
    names = arguments.names
    if not names:
        names = sets(configuration.load(arguments.config, arguments.overrides))
        if not names:
            print(f"{arguments.config} uses no data set")
    known = {**builders.BUILDERS, **sources.SOURCES, **SERIES}
    for name in names:
        configuration.lookup(known, name)
        if name in builders.BUILDERS:
            prepared = sources.prepare(name)
            sizes = ", ".join(f"{split} {size:,}" for split, size in prepared.sizes.items())
            done = "prepared" if prepared.new else "already prepared"
            print(f"{name}: {done} at {prepared.path} ({sizes})")
        else:
            print(f"{name} needs no preparation: it is embedded, generated, or read from files of your own")


def sets(config) -> list[str]:
    """Returns the names of the data sets that a config uses."""
    if "source" in config:
        return [config.source.name]
    return list(config.get("sources", []))
