"""Say what a training step of a config, or of a decoder of a known size, needs of each device of a mesh.

    python -m experiments memory --decoder=llama2_7b --batch=64 --context=4096 --mesh=data=64 --fsdp

The step is compiled for as many simulated devices as the mesh has; nothing is computed, and no weights are
made. What the state takes is exact. What lies in memory in between is as XLA's compiler for CPUs plans it:
for another device it is an estimate.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments import commands

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
DEPTHS = (2, 4)  # layers of a deep decoder that are compiled; what each adds is the same from then on
ADAMW = {"name": "adamw", "b2": 0.95, "weight_decay": 0.1, "clip": 1.0}
PLANNED = {  # so that a CPU's program is planned as those of accelerators are: for little memory,
    "xla_backend_optimization_level": 0,
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    # with what is computed again for the gradient, and with each gradient cut as soon as it is summed
    "xla_disable_hlo_passes": "cse_barrier_expander,cpu-all-reduce-combiner",
}
SCHEDULE = {"name": "cosine", "peak": 3e-4, "warmup": 2000, "final": 0.1}


class Need(NamedTuple):
    """What one device holds while it trains, in bytes, and what it receives in each step."""

    parameters: int
    optimizer: int
    other: int  # state without gradient, and the step
    batch: int
    temporaries: int  # gradients, what the gradient needs of the forward pass, gathered parameters
    messages: Mapping[str, tuple[int, int]]  # kind: how many, and of how many bytes together

    @property
    def total(self) -> int:
        """Is the most that is in memory at once."""
        return self.parameters + self.optimizer + self.other + self.batch + self.temporaries


def add_arguments(parser) -> None:
    """Adds what is trained, where, and on devices of how much memory."""
    commands.add_config(parser)
    parser.add_argument(
        "--decoder",
        metavar="NAME",
        help="instead of a config: a language model by its name in dlx.models.MODELS, such as llama2_7b, "
        "that computes in bfloat16 with AdamW, and a llama's blocks again for the gradient",
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="of a decoder: rows (default 64)")
    parser.add_argument(
        "--context", type=int, default=4096, metavar="N", help="of a decoder: tokens of a row (default 4096)"
    )
    parser.add_argument("--device_memory", metavar="SIZE", help="tell whether it fits devices of, say, 80GiB")
    commands.add_mesh(parser)
    commands.add_data(parser)


def size(text: str) -> int:
    """Returns the bytes of a size such as "80GiB"."""
    number, unit = text[:-3], text[-3:]
    if unit not in UNITS or not number.replace(".", "", 1).isdigit():
        raise ValueError(f"{text!r} is no size; it is written as 80GiB")
    return int(float(number) * UNITS[unit])


def run(arguments) -> None:
    """Prints what each device needs, and what it is sent in each step."""
    from dlx import configuration, sharding

    memory = size(arguments.device_memory) if arguments.device_memory else None
    shape = {"data": 1, "model": 1} | sharding.parsed(arguments.mesh)
    if min(shape.values()) < 1:
        raise ValueError(f"--mesh={arguments.mesh}: say how many devices each axis has, as data=8,model=8")
    devices = simulated(shape["data"] * shape["model"])
    commands.start(arguments)
    mesh, fsdp = sharding.mesh(shape, devices), sharding.LARGE if arguments.fsdp else None
    if arguments.decoder:
        need, facts = of_decoder(arguments.decoder, arguments.batch, arguments.context, mesh, fsdp)
    else:
        need, facts = of_config(configuration.load(arguments.config, arguments.overrides), mesh, fsdp)
    print(*lines(need, facts, mesh, fsdp, memory), sep="\n")


def simulated(count: int) -> list:
    """Returns so many simulated devices of this machine's CPU; raises RuntimeError where it is too late."""
    import jax

    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX has its devices already
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise RuntimeError(f"{count} devices cannot be simulated where JAX runs already with {len(devices)}")
    return devices[:count]


def of_config(config, mesh, fsdp: int | None) -> tuple[Need, dict[str, str]]:
    """Returns what the last stage of a config needs, and what is to be said of it."""
    import jax

    from experiments import runs

    _, config = runs.stages(config)[-1]
    with jax.set_mesh(mesh):
        run = runs.build(config)
        need = measured(run.task, run.optimizer, run.task.batch(0), mesh, fsdp)
    return need, run.experiment.describe(config)


def of_decoder(name: str, batch: int, context: int, mesh, fsdp: int | None) -> tuple[Need, dict[str, str]]:
    """Returns what a language model needs, and what is to be said of it.

    Of a deep one, the first layers are compiled, and what each adds is taken for all the others: the layers
    of a decoder are alike.
    """
    import jax
    import jax.numpy as jnp

    from dlx import losses, metrics, optimizers, sharding
    from dlx.configuration import lookup
    from dlx.core import Task
    from dlx.models import MODELS, gpt

    build = lookup(MODELS, name)
    again = {"remat": True} if "llama" in name else {}
    tokens = jax.ShapeDtypeStruct((batch, context), jnp.int32, sharding=sharding.batch(mesh))
    optimizer = optimizers.make(ADAMW, SCHEDULE, 100_000)

    def task(**depth: int) -> Task:
        model = build(dtype="bfloat16", context=context, **again, **depth)

        def loss(variables, batch, key):
            hidden, state = model.apply(variables, batch["tokens"], hidden=True, key=key)
            each = losses.chunked_cross_entropy(hidden, gpt.head(variables), batch["targets"])
            return each.mean(), (state, {"loss": metrics.mean(each)})

        return Task(lambda key: model.init(key, jnp.zeros((1, 1), jnp.int32)), loss, lambda step: {})

    sharding.check_batch(batch, mesh)
    example = {"tokens": tokens, "targets": tokens}
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(task().init, jax.random.key(0))
        depth = sum(key.startswith("block_") for key in shapes.params)
        first, second = (min(count, depth) for count in DEPTHS)
        few = measured(task(depth=first), optimizer, example, mesh, fsdp)
        if first == depth:
            return few, described(shapes, batch, context)
        more = measured(task(depth=second), optimizer, example, mesh, fsdp)
    facts = described(shapes, batch, context)
    if second < depth:
        facts["compiled"] = f"{first} and {second} layers, from which {depth} are reckoned"
    return extended(few, more, (depth - first) / (second - first)), facts


def described(shapes, batch: int, context: int) -> dict[str, str]:
    """Returns what is to be said of a decoder."""
    from dlx import report

    tokens = f"{batch:,} x {context:,} tokens a step"
    return {"model": f"{report.count(shapes.params):,} parameters, {tokens}"}


def extended(few: Need, more: Need, times: float) -> Need:
    """Returns `few` with `times` what `more` has more."""

    def grown(a, b):
        return round(a + times * (b - a))

    kinds = {**few.messages, **more.messages}
    none = (0, 0)
    messages = {
        kind: tuple(map(grown, few.messages.get(kind, none), more.messages.get(kind, none))) for kind in kinds
    }
    return Need(*map(grown, few[:-1], more[:-1]), messages)


def measured(task, optimizer, example, mesh, fsdp: int | None) -> Need:
    """Compiles a step for a mesh and returns what it needs; `example` is a batch, or its shapes, placed."""
    import jax

    from dlx import sharding, train

    layout = jax.eval_shape(train.make_init(task, optimizer), jax.random.key(0))
    layout = sharding.layout(layout, mesh, fsdp=fsdp)
    placement = jax.tree.map(lambda leaf: leaf.sharding, layout)
    if not isinstance(jax.tree.leaves(example)[0], jax.ShapeDtypeStruct):
        where = sharding.batch(mesh)
        example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), example)
    step = train.make_step(sharding.gathering(task.loss, placement.variables), optimizer)
    call = jax.jit(step, donate_argnums=0, out_shardings=(placement, None))
    compiled = call.lower(layout, example, jax.random.key(0)).compile(PLANNED)
    memory = compiled.memory_analysis()
    between = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    messages: dict[str, tuple[int, int]] = {}
    for message in sharding.collectives(compiled.as_text()):
        count, total = messages.get(message.kind, (0, 0))
        messages[message.kind] = (count + 1, total + message.size)
    held = sharding.on_a_device
    other = held(layout.variables.state) + held(layout.step)
    return Need(
        held(layout.variables.params), held(layout.opt_state), other, held(example), between, messages
    )


def lines(need: Need, facts: Mapping[str, Any], mesh, fsdp: int | None, memory: int | None) -> list[str]:
    """Returns the table."""
    rows = {
        "parameters": need.parameters,
        "optimizer": need.optimizer,
        "other state": need.other,
        "batch": need.batch,
        "in between": need.temporaries,
        "  of it gradients": need.parameters,
        "in all": need.total,
    }
    axes = ", ".join(f"{axis} {count}" for axis, count in mesh.shape.items())
    width = max(map(len, [*rows, *facts, *need.messages]))
    table = [f"  {name:<{width}}  {value}" for name, value in facts.items()]
    table.append(f"  {'mesh':<{width}}  {axes}{', fsdp' if fsdp is not None else ''}")
    table += [
        "each device holds",
        *(f"  {name:<{width}}  {shown(value):>12}" for name, value in rows.items()),
    ]
    table.append("and is sent in each step" + (", what is in a loop counted once" * bool(need.messages)))
    if not need.messages:
        table.append("  nothing")
    for kind, (count, total) in sorted(need.messages.items()):
        table.append(f"  {kind:<{width}}  {shown(total):>12}  in {count:,}")
    if memory is not None:
        verdict = "fits" if need.total <= memory else "does not fit"
        table.append(f"{verdict} devices of {shown(memory)}: {need.total / memory:.0%} of each")
    return table


def shown(count: int) -> str:
    """Writes a number of bytes in a unit that suits it."""
    unit = next((unit for unit, size in reversed(UNITS.items()) if count >= size), "KiB")
    return f"{count / UNITS[unit]:.2f} {unit}"
