"""Measure speed side by side with PyTorch."""

import importlib
import importlib.util
import json
from pathlib import Path

from experiments import commands

QUESTIONS = {
    "loop": "what the training loop costs beyond the bare jitted step",
    "input": "examples per second out of the input pipeline, against torch's DataLoader",
    "startup": "from command to first step and to the finished digits run, against a plain PyTorch script",
    "checkpoints": "how long saves hold training up, and restores take, against torch.save and torch.load",
    "devices": "what a training step takes on 1, 2, 4 and 8 devices, simulated where there are no others",
    "operations": "single products and convolutions of such networks, forward and in their gradients",
    "models": "training step, forward pass, compilation and memory of each family of models, against PyTorch",
}
SMOKE = {
    "loop": {"milliseconds": (5,), "seconds": 0.05, "batch": 32},
    "input": {"smoke": True},
    "startup": {"path": commands.DEFAULT + ":smoke", "caches": ("empty",)},
    "checkpoints": {"megabytes": (1,)},
    "devices": {"counts": (2,), "names": ("image_classification/digits",)},
    "operations": {"smoke": True},
    "models": {"smoke": True, "variants": ("eager",), "threads": 1},
}
OF_MODELS = ("only", "variants", "seconds", "dtype", "profile")


def add_arguments(parser) -> None:
    """Adds what to measure, how often, and where the numbers go."""
    text = "; ".join(f"{name}: {question}" for name, question in QUESTIONS.items())
    parser.add_argument("what", choices=QUESTIONS, help=text)
    parser.add_argument(
        "--repeats", type=int, metavar="N", help="how often each side is measured, in turns (default: enough)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number there")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="see that it works, in seconds, without prepared data; the numbers mean nothing",
    )
    commands.add_data(parser)
    models = parser.add_argument_group("for models")
    models.add_argument(
        "--only", nargs="+", metavar="ROW", help="measure these rows (default: all of the device)"
    )
    models.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        help="run these variants of the peer alone: eager channels_last torch.compile transformers",
    )
    models.add_argument(
        "--seconds", type=float, metavar="S", help="measure each row for about so long (default: 20)"
    )
    models.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of both sides (default: each row's own)"
    )
    models.add_argument(
        "--profile", type=Path, metavar="DIR", help="also write a trace of a step of each row there"
    )


def run(arguments) -> None:
    """Measures both sides in turns and prints one table."""
    if arguments.repeats is not None and arguments.repeats < 1:
        raise ValueError(f"--repeats={arguments.repeats}; at least 1 is needed")
    if arguments.what not in ("loop", "devices") and importlib.util.find_spec("torch") is None:
        raise RuntimeError(
            f"benchmark {arguments.what} measures against PyTorch, which is not installed: pip install torch"
        )
    given = {name: getattr(arguments, name) for name in OF_MODELS if getattr(arguments, name) is not None}
    if given and arguments.what != "models":
        raise ValueError(f"--{next(iter(given))} is for benchmark models, not for {arguments.what}")
    commands.start(arguments)

    from experiments.speed import table

    module = importlib.import_module(f"experiments.speed.{arguments.what}")
    found = module.measure(arguments.repeats, **(SMOKE[arguments.what] if arguments.smoke else {}) | given)
    print(*table.lines(found), sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(table.record(arguments.what, found), indent=2) + "\n")
