"""Draw the figures of a trained workdir, or talk to it."""

import sys
from collections.abc import Callable, Iterable, Iterator

from experiments import commands


def add_arguments(parser) -> None:
    """Adds --workdir, the ways to talk to a language model, and the places of data."""
    commands.add_workdir(parser)
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("--prompt", metavar="TEXT", help="instead of figures, print the reply to this")
    talk.add_argument(
        "--chat",
        action="store_true",
        help="instead of figures, talk: a line of standard input is a turn, the model knows those before; "
        "Ctrl-D ends",
    )
    commands.add_data(parser)
    commands.add_mesh(parser)


def run(arguments) -> int:
    """Prints the held-out results and draws into workdir/figures; or prints replies as they are decoded.

    Of a run in stages each is drawn into its own workdir, and the last one replies.
    """
    commands.start(arguments)

    import jax

    from experiments import runs

    workdirs = runs.parts(arguments.workdir)
    mesh, fsdp = commands.place(arguments)
    with jax.set_mesh(mesh):
        if arguments.prompt is None and not arguments.chat:
            for workdir in workdirs:
                draw(*runs.restore(workdir, fsdp), workdir)
            return 0
        config, run, _, variables = runs.restore(workdirs[-1], fsdp)
        if not hasattr(run.experiment, "reply"):
            raise ValueError(
                f"{config.experiment} has no replies: --prompt and --chat are for runs of language models; "
                "leave them out to see the figures"
            )
        answer = run.experiment.reply(config, variables)
        if arguments.chat:
            return chat(answer, typed())
        say(answer([arguments.prompt]))
    return 0


def draw(config, run, step: int, variables, workdir) -> None:
    """Prints the results on the last held-out split and draws the figures of the experiment and the run."""
    from dlx import figures, report

    split = "test" if "test" in run.task.evaluators else list(run.task.evaluators)[-1]
    folder = workdir / "figures"
    found = run.task.evaluators[split](variables)
    pictures = run.experiment.demo(config, variables, folder)
    records = report.read(workdir)
    shown = [name for name in records[0] if name not in ("step", "set", "grad_norm")]
    pictures.append(figures.learning_curves(records, shown, folder / "curves.png"))
    print(f"{split} after {step} steps", report.table(found), sep="\n")
    print("figures:", *pictures, sep="\n  ")


def chat(answer: Callable[[list[str]], Iterable[str]], lines: Iterable[bytes]) -> int:
    """Replies to each line, knowing the turns before; returns 2 when one could not be replied to, else 0.

    Such a turn, and those that are blank, are forgotten.
    """
    from dlx.data.tokenizer import utf8

    turns: list[str] = []
    status = 0
    for number, line in enumerate(lines, 1):
        try:
            prompt = utf8(line, f"line {number} of standard input").strip()
            if prompt:
                turns += [prompt, say(answer([*turns, prompt]))]
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
    return status


def say(words: Iterable[str]) -> str:
    """Prints pieces of text as they come, and a line break; returns the text."""
    said = []
    for piece in words:
        print(piece, end="", flush=True)
        said.append(piece)
    print(flush=True)
    return "".join(said)


def typed() -> Iterator[bytes]:
    """Yields the lines of standard input, asked for with a prompt where that is a terminal."""
    terminal = sys.stdin.isatty()
    while True:
        if terminal:
            print("> ", end="", flush=True)
        if not (line := sys.stdin.buffer.readline()):
            break
        yield line
    if terminal:
        print()  # after Ctrl-D, so that the shell starts on a line of its own
