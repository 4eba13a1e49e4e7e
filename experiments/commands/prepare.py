"""Download and verify data sets."""

from experiments import commands


def add_arguments(parser) -> None:
    """Adds the names of data sets, or --config for the one that a config uses."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets, such as mnist; none: --config's")
    commands.add_config(parser)
    commands.add_data(parser)


def run(arguments) -> None:
    """Prepares each data set and prints where it lies."""
    from dlx import configuration
    from dlx.data import builders, sources

    commands.use_data(arguments)
    names = arguments.names
    if not names:
        names = [configuration.load(arguments.config, arguments.overrides).source.name]
    for name in names:
        configuration.lookup(sources.SOURCES, name)
        if name in builders.BUILDERS:
            prepared = sources.prepare(name)
            sizes = ", ".join(f"{split} {size:,}" for split, size in prepared.sizes.items())
            done = "prepared" if prepared.new else "already prepared"
            print(f"{name}: {done} at {prepared.path} ({sizes})")
        else:
            print(f"{name} needs no preparation: it is embedded or generated")
