"""A run: what its config builds, what it starts from, and what its workdir holds."""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dlx import agreement, checkpoint, optimizers, pretrained, report, sharding, train
from dlx.configuration import ConfigError, difference, lookup, read, save
from dlx.core import Plan, Task, TrainState, Variables
from experiments.applications import EXPERIMENTS

CONFIG = "config.json"
HEADS = {"head", "classifier", "tagger", "masked_lm", "next_sentence", "pooler"}  # modules; see `head`
SCALING = "state/standardized/"  # what a weights file of another library cannot hold


class Run(NamedTuple):
    """What a config builds; `given` says which weights it starts from, see `initial`."""

    experiment: Any
    task: Task
    optimizer: Any
    plan: Plan
    given: Callable[[Variables], Mapping[str, Any]]


def build(config, workdir: Path = Path()) -> Run:
    """Builds the task, the optimizer and the plan of a config, which is that of one run: see `stages`."""
    experiment = lookup(EXPERIMENTS, config.experiment)
    plan = Plan(**config.plan)
    given = functools.partial(initial, config, workdir=workdir)
    return Run(experiment, experiment.make_task(config), optimizer(config), plan, given)


def single(config):
    """Returns the config of one run: without the sweep, of which the run may be a point."""
    one = config.copy_and_resolve_references()
    with one.unlocked():
        if "sweep" in one:
            del one["sweep"]
    return one.lock()


def stages(config) -> list[tuple[str, Any]]:
    """Returns the runs that a config stands for, in order: the name and the config of each.

    That is one without a name, the config itself, unless it has `config.stages`:

        config.stages = [
            {"name": "layer_0", "learn": "layer_0", "plan.steps": 1000},
            {"name": "layer_1", "learn": "layer_1", "plan.steps": 500},
            {"name": "classifier"},
        ]

    Each stage is the config with the values of the stage in the place of its own, by dotted path. A stage
    starts from the one before it, unless it sets "init.stage" to the name of an earlier one, or to "" for
    none, or sets "init.from". A staged run has a workdir for each stage in its own, `workdir/<name>`, which
    is like any other. Raises ConfigError for names that cannot be folders, and for values no config takes.
    """
    config = single(config)
    if "stages" not in config:
        return [("", config)]
    found: list[tuple[str, Any]] = []
    for spec in config.stages:
        values = dict(spec)
        name, before = values.pop("name", ""), [name for name, _ in found]
        if not re.fullmatch(r"[a-z]\w*", name) or name in {*before, "checkpoints", "figures"}:
            raise ConfigError(
                f"config.stages: {name!r} cannot be the name of a stage: it is a folder of the workdir, of "
                "small letters, digits and _, other than those before it and than 'checkpoints' and 'figures'"
            )
        stage = config.to_dict()
        del stage["stages"]
        last = before[-1] if before and "init.from" not in values else ""
        stage["init"] = {"from": "", "stage": last} | stage.get("init", {})
        for path, value in values.items():
            *sections, key = path.split(".")
            section = stage
            for word in sections:
                section = lookup(section, word)
                if not isinstance(section, dict):
                    raise ConfigError(f"config.stages: config.{word} is {section} and has no {key!r}")
            lookup(section, key)
            section[key] = value
        if wanted := stage["init"]["stage"]:
            lookup(dict.fromkeys(before), wanted)
        found.append((name, type(config)(stage).lock()))
    if not found:
        raise ConfigError("config.stages is empty; leave it out for a run without stages")
    return found


def parts(workdir: Path) -> list[Path]:
    """Returns the workdirs of the stages of a run, in order; its own alone where it has none."""
    return [workdir / name for name, _ in stages(read(workdir / CONFIG))]


def finished(workdir: Path, config) -> bool:
    """Tells whether the last thing a run does, to measure the test data after the last step, is done."""
    name, last = stages(config)[-1]
    records = report.read(workdir / name)
    return any(r["set"] == "test" and r["step"] == last.plan.steps for r in records)


def optimizer(config):
    """Returns the optimizer of a config, which leaves alone what `config.init` freezes too."""
    spec = dict(config.optimizer)
    if frozen := begins(config).get("freeze"):
        own = spec.get("freeze", [])
        spec["freeze"] = [*([own] if isinstance(own, str) else own), *frozen]
    return optimizers.make(spec, config.schedule, config.plan.steps)


def begins(config) -> dict:
    """Returns `config.init`, or {} where the run starts from nothing: there is none, or it names no place."""
    spec = dict(config.get("init") or {})
    for field in spec:
        lookup(dict.fromkeys(("from", "stage", "config", "library", "new_head", "freeze")), field)
    return spec if spec.get("from") or spec.get("stage") else {}


def initial(config, shapes: Variables, workdir: Path = Path()) -> dict[str, Any]:
    """Returns the leaves, by path, that a run takes from elsewhere, as `config.init` says; {} without it.

    `init` has these fields: "from", the workdir of an earlier run (what it results in, see `result`) or a
    file (.safetensors, .pth) of torchvision's or timm's weights for the architecture `config.model.name`;
    "stage", in the place of "from", the name of an earlier stage of the same run, whose workdir lies beside
    `workdir`; "library", which of the two, where both know it; "new_head", true to leave the classifier as
    drawn; "freeze", patterns that join `optimizer.freeze`;
    "config", what the workdir is trained with, for the message when it is missing.

    The state comes along: batch statistics, and the scaling of the images, so that what is fed to the weights
    is what they were trained on. A file of weights has no scaling; there the run's own stays.
    """
    if not (spec := begins(config)):
        return {}
    source = str(workdir.parent / spec["stage"]) if spec.get("stage") else spec["from"]
    if Path(source).suffix in pretrained.files.READERS:
        variables = converted(source, config.model.name, spec.get("library", ""))
    else:
        variables = trained(Path(source), spec.get("config", ""))
    held, wanted = checkpoint.leaves(variables._asdict()), checkpoint.leaves(shapes._asdict())
    kept = set()
    if not any(path.startswith(SCALING) for path in held):
        kept |= {path for path in wanted if path.startswith(SCALING)}
    if spec.get("new_head"):
        kept |= head(wanted)
        held = {path: leaf for path, leaf in held.items() if path not in kept | head(held)}
    wanted = {path: leaf for path, leaf in wanted.items() if path not in kept}
    lines = [f"missing: {path} {wanted[path].shape}" for path in sorted(wanted.keys() - held.keys())]
    lines += [f"unexpected: {path} {held[path].shape}" for path in sorted(held.keys() - wanted.keys())]
    lines += [
        f"{path}: is {held[path].shape}, wanted {wanted[path].shape}"
        for path in sorted(held.keys() & wanted.keys())
        if held[path].shape != wanted[path].shape
    ]
    if lines:
        hint = "" if spec.get("new_head") else "\n  (for other classes, say init.new_head=True)"
        raise ConfigError(
            f"init.from: the weights of {source} are not those of this model:\n  " + "\n  ".join(lines) + hint
        )
    return {path: leaf.astype(wanted[path].dtype) for path, leaf in held.items()}


def head(paths) -> set[str]:
    """Returns the paths of the parameters whose shape depends on the number of classes.

    Those in modules named as `HEADS`, with BERT's pooler, which is learned anew with what it serves; where
    there are none, those of the last of Linen's numbered dense layers at the top, such as
    "params/Dense_2/kernel".
    """
    named = {path for path in paths if HEADS & set(path.split("/"))}
    numbers = [int(found[1]) for path in paths if (found := re.match(r"params/Dense_(\d+)/", path))]
    if not named and not numbers:
        raise ConfigError(
            f"init.new_head: the model has neither a module named as {sorted(HEADS)} nor a last dense layer"
        )
    return named or {path for path in paths if path.startswith(f"params/Dense_{max(numbers)}/")}


def converted(file: str, name: str, library: str) -> Variables:
    """Returns the weights of a file as `Variables` of the architecture `name`."""
    tables = {"torchvision": pretrained.TORCHVISION, "timm": pretrained.TIMM}
    readers = {"torchvision": pretrained.from_torchvision, "timm": pretrained.from_timm}
    known = [word for word, table in tables.items() if name in table]
    if library:
        lookup(tables, library)
    elif not known:
        raise ConfigError(f"init.from: {file} cannot be used, for neither torchvision nor timm has {name!r}")
    if not Path(file).is_file():
        raise ConfigError(f"init.from: there is no file of weights {file}")
    weights = pretrained.load(file)
    errors = []
    for word in [library] if library else known:  # names differ, so only the right one takes them
        try:
            return readers[word](name, weights)
        except pretrained.PretrainedError as error:
            errors.append(f"{word}: {error}")
    raise ConfigError(f"init.from: {file} cannot be used; " + "\n".join(errors))


def trained(workdir: Path, config: str) -> Variables:
    """Returns the variables to evaluate of an earlier run, on the host, without its model or its data.

    Of a run in stages, those of the last one.
    """
    if not (workdir / CONFIG).exists():
        train_it = f"; train it first:\n  python -m experiments train --config={config} --workdir={workdir}"
        raise ConfigError(f"init.from: there is no run at {workdir}" + (train_it if config else ""))
    workdir = parts(workdir)[-1]
    if not (workdir / CONFIG).exists():
        raise ConfigError(f"init.from: the stage {workdir} has not begun; train the run to the end first")
    before = read(workdir / CONFIG)
    if not (shapes := checkpoint.shapes(workdir)):
        raise ConfigError(f"init.from: {workdir} has no checkpoint yet; train it to the end first")
    held: dict = {"variables": {"params": {}, "state": {}}}
    for path, leaf in shapes.items():
        if path.startswith("variables/"):
            *folders, name = path.split("/")
            functools.reduce(lambda node, folder: node.setdefault(folder, {}), folders, held)[name] = leaf
    variables = Variables(**held["variables"])
    opt_state = jax.eval_shape(optimizer(before).init, variables.params)
    layout = {"step": shapes["step"], "variables": variables, "opt_state": opt_state}
    with checkpoint.store(workdir) as store:
        placed = sharding.layout(TrainState(**layout), sharding.current())
        state = store.restore(placed, best=bool(before.get("best")))
    if state is None:
        raise ConfigError(f"init.from: the checkpoints of {workdir} went away while they were read")
    return jax.device_get(optimizers.averaged(state))


def check(workdir: Path, config) -> None:
    """Raises ConfigError, with nothing changed, when `workdir` holds the run of another config."""
    if (workdir / CONFIG).exists() and (changes := difference(read(workdir / CONFIG), config)):
        raise ConfigError(
            f"{workdir} is the run of another config:\n  " + "\n  ".join(changes) + "\n"
            "use another --workdir, or the config it was started with to resume it"
        )
    checkpoint.refuse_foreign(workdir / "checkpoints")


def claim(workdir: Path, config) -> None:
    """Makes `workdir` the run of `config`, with its `files`; raises ConfigError when it cannot be written.

    Of several processes the first one writes; the others wait for it, and raise with it.
    """
    kept = files(workdir, config)
    agreement.agreed(lambda: write(workdir, config, kept) if jax.process_index() == 0 else None, ConfigError)


def write(workdir: Path, config, kept: Mapping[str, str]) -> None:
    """Writes the config of a run and its files, {name: text}; raises ConfigError."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / CONFIG).exists():
            save(config, workdir / CONFIG)
        for name, text in kept.items():
            fresh = workdir / f"{name}.tmp"
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(workdir / name)
    except OSError as error:
        raise ConfigError(f"the workdir {workdir} cannot be written: {error.strerror}") from error


def files(workdir: Path, config) -> dict[str, str]:
    """Returns what the experiment learned from its training data and saves with a run, such as a tokenizer.

    {name: text}, from the experiment's `files(config)` where it has one. Raises ConfigError when the workdir
    has a file of that name with another text: its data, or what learns from them, are no longer the same.
    """
    experiment = lookup(EXPERIMENTS, config.experiment)
    kept = experiment.files(config) if hasattr(experiment, "files") else {}
    for name, text in kept.items():
        if (workdir / name).exists() and (workdir / name).read_bytes() != text.encode():
            raise ConfigError(
                f"{workdir / name} is not what {config.experiment} makes of its training data now: the data "
                "have changed since the run began, or the file has; bring them back, or use another --workdir"
            )
    return kept


def rating(config) -> Callable[[Mapping[str, Mapping[str, float]]], float] | None:
    """Returns what tells how good a step is, of what the evaluators said, as `config.best` has it.

    `config.best = {"metric": "accuracy", "higher_is_better": True}` makes the step whose metric on the
    validation data is best the result of the run, the earliest of equals; without it, or where it is empty as
    in a stage that does not choose, None, the result is the last step.
    """
    if not config.get("best"):
        return None

    def rate(found: Mapping[str, Mapping[str, float]]) -> float:
        if "validation" not in found:
            raise ConfigError(
                f"config.best: {config.experiment} has no validation data to choose by; give it some "
                "(source.validation=0.1, say), or leave config.best out"
            )
        value = float(lookup(found["validation"], config.best.metric))
        return value if config.best.higher_is_better else -value

    return rate


def restore(workdir: Path, fsdp: int | None = None) -> tuple[Any, Run, int, Variables]:
    """Returns the config, the run, and the step and the variables that it results in, as `result` does."""
    config = read(workdir / CONFIG)
    run = build(config)
    files(workdir, config)
    return config, run, *result(workdir, config, run, fsdp)


def result(workdir: Path, config, run: Run, fsdp: int | None = None) -> tuple[int, Variables]:
    """Returns the step and the variables, averaged where the run averages, that a run results in so far.

    They are of the newest checkpoint or, see `rating`, of the best. They lie on the mesh of `jax.set_mesh`,
    and the state of which they are a part did as `sharding.layout` says of `fsdp`; without a mesh, on all
    devices.
    """
    init = train.make_init(run.task, run.optimizer)
    shapes = jax.eval_shape(init, jax.random.key(0))
    with checkpoint.store(workdir) as store:
        layout = sharding.layout(shapes, sharding.current(), fsdp=fsdp)
        state = store.restore(layout, best=bool(config.get("best")))
    if state is None:
        wanted = f" with a finite {config.best.metric}" if config.get("best") else ""
        raise ConfigError(f"{workdir} has no checkpoint{wanted} yet; train it first")
    return int(state.step), sharding.gather(optimizers.averaged(state))
