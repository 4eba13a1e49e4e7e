"""From a config to an optax transform: optimizers, schedules and all that is done to gradients and weights.

    make({"name": "adamw", "b2": 0.95, "weight_decay": 0.05, "clip": 1.0},
         {"name": "cosine", "peak": 1e-3, "warmup": 100}, steps=10_000)

A transform sees the gradient in this order: frozen parameters are set aside, a step with a non-finite
gradient is skipped, gradients are accumulated, clipped by value, then by norm, the coupled decay is
added, the optimizer proposes an update, the decoupled decay joins it, `rates` scale the sum and `unfreeze`
holds it back, and the weights are averaged.
Patterns are regular expressions, searched for (`re.search`) in the path of a parameter: the keys of the
nested dict joined by "/", such as "Dense_0/kernel".
"""

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlx.core import Params, TrainState, Variables

Schedule = Callable[[Any], Any]  # step -> learning rate
Number = int | float
Patterns = str | Sequence[str]
Factors = Sequence[tuple[re.Pattern, Number]]


def constant(peak: Number, steps: int, warmup: int = 0) -> Schedule:
    """Returns `peak` for ever, after a linear warm-up from 0 over `warmup` steps."""
    return _warm(optax.constant_schedule(peak), peak, steps, warmup)


def cosine(peak: Number, steps: int, warmup: int = 0, final: Number = 0.0) -> Schedule:
    """Falls from `peak` along half a cosine to `final` * `peak` at `steps` (Loshchilov & Hutter 2017)."""
    _number("final", final, at_least=0)
    return _warm(optax.cosine_decay_schedule(peak, max(steps - warmup, 1), final), peak, steps, warmup)


def linear(peak: Number, steps: int, warmup: int = 0, final: Number = 0.0) -> Schedule:
    """Falls from `peak` along a line to `final` * `peak` at `steps`."""
    _number("final", final, at_least=0)
    return _warm(optax.linear_schedule(peak, final * peak, max(steps - warmup, 1)), peak, steps, warmup)


def step(
    peak: Number, steps: int, warmup: int = 0, *, boundaries: Sequence[int], factor: Number = 0.1
) -> Schedule:
    """Multiplies `peak` by `factor` at every boundary, a step counted from the start of training."""
    _number("factor", factor, above=0)
    if list(boundaries) != sorted(set(boundaries)) or any(boundary <= warmup for boundary in boundaries):
        raise ValueError(
            f"boundaries must grow and come after the warm-up of {warmup}, not {list(boundaries)}"
        )
    drops = {boundary - warmup: factor for boundary in boundaries}
    return _warm(optax.piecewise_constant_schedule(peak, drops), peak, steps, warmup)


def rsqrt(peak: Number, steps: int, warmup: int = 0, timescale: Number | None = None) -> Schedule:
    """Falls from `peak` as the inverse square root of the step (Vaswani et al. 2017).

    The rate is peak * sqrt(timescale / (step - warmup + timescale)). With `timescale` the length of the
    warm-up, as it is unless given (or 1), that is the published peak * sqrt(warmup / step).
    """
    scale = max(warmup, 1) if timescale is None else timescale
    _number("timescale", scale, above=0)
    return _warm(lambda count: peak * jnp.sqrt(scale / (count + scale)), peak, steps, warmup)


def one_cycle(
    peak: Number, steps: int, rise: Number = 0.3, initial: Number = 1 / 25, final: Number = 1 / 250_000
) -> Schedule:
    """Rises from `initial` * `peak` for the share `rise` of the steps, then falls to `final` * `peak`.

    Both ways along half a cosine (Smith & Topin 2018, "Super-convergence").
    """
    _number("rise", rise, above=0, below=1)
    _number("initial", initial, above=0)
    _number("final", final, above=0)
    _check_span(peak, steps, 0)
    top = min(max(round(rise * steps), 1), steps)

    def rate(count):
        up, down = jnp.clip(count / top, 0, 1), jnp.clip((count - top) / max(steps - top, 1), 0, 1)
        rising = initial + (1 - initial) * (1 - jnp.cos(jnp.pi * up)) / 2
        falling = final + (1 - final) * (1 + jnp.cos(jnp.pi * down)) / 2
        return peak * jnp.where(count < top, rising, falling)

    return rate


SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "step": step,
    "rsqrt": rsqrt,
    "one_cycle": one_cycle,
}


def _matrices(params: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


# Each takes (learning_rate, **hyperparameters). Decay is never theirs: see `optimizer`.
OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "nesterov": partial(optax.sgd, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
    "adamw": optax.adam,
    "nadam": optax.nadam,
    "nadamw": optax.nadam,
    "adamax": optax.adamax,
    "amsgrad": optax.amsgrad,
    "radam": optax.radam,
    "adabelief": optax.adabelief,
    "adan": optax.adan,
    "ademamix": optax.contrib.ademamix,
    "yogi": optax.yogi,
    "novograd": optax.novograd,
    "adagrad": optax.adagrad,
    "adadelta": optax.adadelta,
    "adafactor": optax.adafactor,
    "lamb": optax.lamb,
    "lars": partial(optax.lars, trust_ratio_mask=_matrices),  # as You et al. 2017: biases and scales apart
    "lion": partial(optax.lion, weight_decay=0.0),
    "muon": optax.contrib.muon,
    "sign_sgd": optax.sign_sgd,
    "optimistic": optax.optimistic_gradient_descent,
}
# The decoupled decay of these, unless the config says otherwise, is that of optax; of all others it is 0.
DECAYS = {"adamw": 1e-4, "nadamw": 1e-4, "lion": 1e-3}

_NOT_FROM_A_CONFIG = re.compile("learning_rate|mask|weight_decay|dimension_numbers")
_RATES = {"b1", "b2", "b3", "adam_b1", "adam_b2", "momentum", "decay", "rho", "decay_rate"}


def schedule(spec: Any, steps: int) -> Schedule:
    """Returns step -> learning rate from {"name": ..., "peak": ..., ...} and the length of training.

    `spec` is a dict or anything that `dict` takes. Raises `ValueError` for an unknown name or argument.
    """
    factory, arguments = _choose("schedule", SCHEDULES, spec)
    parameters = {n: p for n, p in inspect.signature(factory).parameters.items() if n != "steps"}
    _known("schedule", spec, arguments, set(parameters))
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in arguments]
    if missing:
        raise ValueError(f"schedule {dict(spec)} lacks {missing}")
    return factory(steps=steps, **arguments)


def make(spec: Any, schedule_spec: Any, steps: int) -> optax.GradientTransformation:
    """Returns the optimizer of a config: `spec` {"name": ..., hyperparameters and options}, and a schedule.

    The name is one of `OPTIMIZERS`, the hyperparameters are those of the optax function of that name
    (without masks), the options are the keyword arguments of `optimizer`. `steps` is the length of
    training. Raises `ValueError` for an unknown name or hyperparameter, with the nearest that exists.
    """
    factory, arguments = _choose("optimizer", OPTIMIZERS, spec)
    parameters = inspect.signature(factory).parameters
    hyper = {name for name in parameters if not _NOT_FROM_A_CONFIG.search(name)}
    options = {
        name
        for name, parameter in inspect.signature(optimizer).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    _known("optimizer", spec, arguments, hyper | options)
    arguments = {"weight_decay": DECAYS.get(dict(spec)["name"], 0.0)} | arguments
    for name in {"rates", "unfreeze"} & arguments.keys():  # mappings, perhaps those of a config
        arguments[name] = dict(arguments[name] or {})
    for name in _RATES & hyper & arguments.keys():
        if arguments[name] is not None:
            _number(name, arguments[name], at_least=0, below=1)
    own = {name: value for name, value in arguments.items() if name in hyper}
    common = {name: value for name, value in arguments.items() if name in options}
    return optimizer(partial(factory, **own), schedule(schedule_spec, steps), **common)


def optimizer(
    direction: Callable[[Schedule], optax.GradientTransformation],
    schedule: Schedule,
    *,
    clip: Number | None = None,
    clip_value: Number | None = None,
    weight_decay: Number = 0.0,
    l2: Number = 0.0,
    decay_exclude: Patterns | None = None,
    accumulate: int = 1,
    average: Number | None = None,
    freeze: Patterns = (),
    rates: Mapping[str, Number] | None = None,
    unfreeze: Mapping[str, Number] | None = None,
    skip_nonfinite: int = 0,
) -> optax.GradientTransformation:
    """Returns `direction(schedule)`, an optimizer of optax, with everything around it.

    `clip` bounds the global norm of the gradient, `clip_value` each of its elements. `weight_decay` is
    decoupled: every step also subtracts learning rate * weight_decay * parameter, whatever the optimizer
    (Loshchilov & Hutter 2019; optax.adamw is adam so; lamb and lars keep it out of their trust ratio).
    `l2` is coupled: l2 * parameter joins the gradient, as the weight_decay of PyTorch's SGD. Neither
    touches a parameter that a pattern of `decay_exclude` finds, nor, without patterns, one of at most one
    axis or whose name is bias or scale; `[]` decays all.

    `accumulate` gradients of successive steps are averaged for one update; the schedule still counts
    steps. `average` keeps a moving average of the weights with that decay, see `averaged`. Parameters
    that a pattern of `freeze` finds never change, and the optimizer holds nothing for them; their gradient
    is still part of the metric grad_norm. Batch statistics are no parameters: those of frozen layers follow
    the data, as they do in PyTorch where a frozen layer is left in training mode.

    `rates` {pattern: factor} multiplies the learning rate, and with it the decay, of the parameters that the
    pattern finds, by the product of all factors that apply; a factor of 0 is the same as `freeze`. `unfreeze`
    {pattern: step} lets them rest for the first `step` steps (Howard & Ruder 2018, gradual unfreezing): their
    gradients count in `clip` and in the optimizer's moments from the start, so that they set out with
    moments that fit. Of several patterns that find one parameter the latest step holds. Steps whose gradient
    or metrics are not finite change nothing, up to `skip_nonfinite` in a row, see `skipping`.

    Updates have the dtype of their parameter. Raises `ValueError` for values out of range and, from
    `init`, for a pattern that finds no parameter.
    """
    for name, bound in {"clip": clip, "clip_value": clip_value}.items():
        if bound is not None:
            _number(name, bound, above=0)
    _number("weight_decay", weight_decay, at_least=0)
    _number("l2", l2, at_least=0)
    _number("accumulate", accumulate, at_least=1, whole=True)
    _number("skip_nonfinite", skip_nonfinite, at_least=0, whole=True)
    exclude = None if decay_exclude is None else _compiled("decay_exclude", decay_exclude)
    factors = _numbers("rates", rates or {})
    starts = _numbers("unfreeze", unfreeze or {}, whole=True)
    still = [pattern for pattern, factor in factors if factor == 0]
    frozen = [*_compiled("freeze", freeze), *still]

    def rate(update):
        return schedule(update * accumulate)

    decayed = partial(_decayed, exclude)
    transforms = []
    if clip_value is not None:
        transforms.append(optax.clip(clip_value))
    if clip is not None:
        transforms.append(optax.clip_by_global_norm(clip))
    if l2:
        transforms.append(optax.add_decayed_weights(l2, decayed))
    transforms.append(direction(rate))
    if weight_decay:
        transforms.append(optax.add_decayed_weights(lambda update: -weight_decay * rate(update), decayed))
    if len(factors) > len(still):
        transforms.append(_scaled(factors))
    if starts:
        transforms.append(_gradual(starts, accumulate))
    transforms.append(optax.stateless(lambda updates, params: optax.tree.cast_like(updates, params)))
    if average is not None:
        transforms.append(averaging(average))

    result = optax.chain(*transforms)
    if accumulate > 1:
        result = optax.MultiSteps(result, accumulate).gradient_transformation()
    if skip_nonfinite:
        result = skipping(result, skip_nonfinite)
    if frozen:
        label = partial(_by_path, lambda path, _: "frozen" if _finds(frozen, path) else "trained")
        result = optax.partition({"trained": result, "frozen": optax.set_to_zero()}, label)
    named = {"rates": [pattern for pattern, _ in factors], "unfreeze": [pattern for pattern, _ in starts]}
    named |= {"decay_exclude": exclude or [], "freeze": frozen}
    return _checked(result, named)


def _scaled(factors: Factors) -> optax.GradientTransformation:
    """Multiplies each update by the factors of the patterns that find its path."""

    def scale(path, update):
        return update * math.prod(factor for pattern, factor in factors if pattern.search(path))

    return optax.stateless(lambda updates, params: _by_path(scale, updates))


class Skipping(NamedTuple):
    """The state of `skipping`: how many more steps in a row it leaves out, how many it has, in all."""

    skips_left: jax.Array
    skipped: jax.Array
    inner: Any


def skipping(inner: optax.GradientTransformation, most: int) -> optax.GradientTransformationExtraArgs:
    """Leaves out the updates of steps that are not finite: `inner` never sees them, and no parameter moves.

    Such are those with a gradient that is not finite, and those of which `update` is told `finite=False`, as
    `train.make_step` does when the loss is not. `skips_left` is `most` after a good step, one less after each
    that is left out, and below 0 after more than `most` in a row: the sign for `train.fit` to end the run.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        return Skipping(jnp.int32(most), jnp.int32(0), inner.init(params))

    def update(updates, state, params=None, *, finite=True, **others):
        each = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(updates)]
        good = jnp.all(jnp.stack([jnp.asarray(finite), *each]))
        updates, after = inner.update(updates, state.inner, params, **others)
        updates = jax.tree.map(lambda leaf: jnp.where(good, leaf, jnp.zeros_like(leaf)), updates)
        after = jax.tree.map(partial(jnp.where, good), after, state.inner)
        left = jnp.where(good, most, jnp.maximum(state.skips_left - 1, -1)).astype(jnp.int32)
        return updates, Skipping(left, state.skipped + (~good).astype(jnp.int32), after)

    return optax.GradientTransformationExtraArgs(init, update)


class Gradual(NamedTuple):
    """The state of gradual unfreezing: how many updates there were."""

    updates: jax.Array


def _gradual(starts: Factors, accumulate: int) -> optax.GradientTransformation:
    """Makes updates 0 until the step of each pattern that finds their path; there are `accumulate` in one."""

    def init(params):
        return Gradual(jnp.int32(0))

    def update(updates, state, params=None):
        def gate(path, update):
            start = max((step for pattern, step in starts if pattern.search(path)), default=0)
            return jnp.where(state.updates * accumulate >= start, update, 0) if start else update

        return _by_path(gate, updates), Gradual(optax.safe_increment(state.updates))

    return optax.GradientTransformation(init, update)


class Average(NamedTuple):
    """The state of `averaging`: how many updates are in the average, and the average, in float32 at least."""

    updates: jax.Array
    params: Params


def averaging(decay: Number) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the weights after each update; changes no update.

    After Polyak & Juditsky 1992. The average is debiased, as Adam's moments: after n updates it is the
    sum of decay^(n-i) * weights_i over i = 1 ... n, divided by the sum of the decay^(n-i), so that the
    initial weights have no part in it. Before the first update it is the initial weights.
    """
    _number("average", decay, above=0, below=1)

    def init(params):
        def copy(leaf):  # never the parameter's own buffer: the training step donates both
            return jnp.array(leaf, jnp.promote_types(leaf.dtype, jnp.float32))

        return Average(jnp.int32(0), jax.tree.map(copy, params))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("averaging needs the parameters: call update(updates, state, params)")
        count = optax.safe_increment(state.updates)
        share = (1 - decay) / (1 - jnp.float32(decay) ** count)
        weights = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda old, new: old + share * (new - old), state.params, weights)
        return updates, Average(count, average)

    return optax.GradientTransformation(init, update)


def averaged(state: TrainState) -> Variables:
    """Returns the variables to evaluate: the average where the optimizer keeps one, else those in training.

    Frozen parameters, which no average holds, and the model's own state (batch statistics) are those
    in training. The average is cast to the dtype of its parameter.
    """
    leaves = jax.tree.leaves(state.opt_state, is_leaf=lambda node: isinstance(node, Average))
    found = [node for node in leaves if isinstance(node, Average)]
    if not found:
        return state.variables
    if len(found) > 1:
        raise ValueError(
            f"the optimizer keeps {len(found)} averages of the weights; which is meant is unknown"
        )

    def choose(param, average):
        return param if isinstance(average, optax.MaskedNode) else average.astype(param.dtype)

    return state.variables._replace(params=jax.tree.map(choose, state.variables.params, found[0].params))


def _choose(kind: str, table: Mapping[str, Callable], spec: Any) -> tuple[Callable, dict[str, Any]]:
    """Splits a spec into the table's entry of its name and the other fields."""
    arguments = dict(spec)
    if "name" not in arguments:
        raise ValueError(f"{kind} {arguments} has no name; choose one of {sorted(table)}")
    name = arguments.pop("name")
    if name not in table:
        raise ValueError(
            f"unknown {kind} {name!r}{_suggestion(str(name), table)}; choose one of {sorted(table)}"
        )
    return table[name], arguments


def _known(kind: str, spec: Any, arguments: Iterable[str], allowed: set[str]) -> None:
    for argument in arguments:
        if argument not in allowed:
            raise ValueError(
                f"{kind} {dict(spec)['name']!r} has no {argument!r}"
                f"{_suggestion(argument, allowed)}; it takes {sorted(allowed)}"
            )


def _suggestion(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _number(name: str, value, *, at_least=None, above=None, below=None, whole: bool = False) -> None:
    """Raises `ValueError` unless `value` is a finite number in range, naming it and the range."""
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    good = good and math.isfinite(value)
    good = good and (at_least is None or value >= at_least)
    good = good and (above is None or value > above) and (below is None or value < below)
    if not good:
        bounds = {"at least": at_least, "above": above, "below": below}
        wanted = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
        raise ValueError(f"{name} must be {'an integer' if whole else 'a number'} {wanted}, not {value!r}")


def _check_span(peak: Number, steps: int, warmup: int) -> None:
    _number("peak", peak, above=0)
    _number("steps", steps, at_least=1, whole=True)
    _number("warmup", warmup, at_least=0, whole=True)
    if warmup > steps:
        raise ValueError(f"warmup of {warmup} steps is longer than training, which has {steps}")


def _warm(decay: Schedule, peak: Number, steps: int, warmup: int) -> Schedule:
    """Puts a linear warm-up from 0 before `decay`, which counts from its end."""
    _check_span(peak, steps, warmup)
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def _compiled(option: str, patterns: Patterns) -> list[re.Pattern]:
    try:
        return [re.compile(pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns)]
    except re.error as error:
        raise ValueError(f"{option} holds {error.pattern!r}, no regular expression: {error}") from error


def _numbers(option: str, table: Mapping[str, Number], whole: bool = False) -> Factors:
    """Returns the patterns of {pattern: number} with their numbers, which are at least 0."""
    for pattern, number in table.items():
        _number(f"{option}[{pattern!r}]", number, at_least=0, whole=whole)
    return list(zip(_compiled(option, list(table)), table.values(), strict=True))


def _finds(patterns: Iterable[re.Pattern], path: str) -> bool:
    return any(pattern.search(path) for pattern in patterns)


def _by_path(function, params: Params) -> Params:
    """Maps function(path, leaf) over the parameters."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: function(jax.tree_util.keystr(keys, simple=True, separator="/"), leaf), params
    )


def _decayed(exclude: list[re.Pattern] | None, params: Params) -> Params:
    def decides(path, leaf):
        if exclude is None:  # by name too: a stack of layers gives biases a second axis
            return leaf.ndim > 1 and path.rpartition("/")[2] not in ("bias", "scale")
        return not _finds(exclude, path)

    return _by_path(decides, params)


def _checked(
    inner: optax.GradientTransformation, patterns: Mapping[str, list[re.Pattern]]
) -> optax.GradientTransformation:
    """Makes `init` refuse a pattern that finds nothing, and parameters that are all frozen."""

    def init(params):
        paths: list[str] = []
        _by_path(lambda path, _: paths.append(path), params)
        for option, compiled in patterns.items():
            for pattern in compiled:
                if not any(map(pattern.search, paths)):
                    some = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
                    raise ValueError(
                        f"{option} pattern {pattern.pattern!r} finds no parameter; there are {some}"
                    )
        if paths and all(_finds(patterns["freeze"], path) for path in paths):
            raise ValueError(
                f"freeze finds all {len(paths)} parameters (rates of 0 freeze too); none is left to train"
            )
        return inner.init(params)

    return optax.GradientTransformationExtraArgs(init, optax.with_extra_args_support(inner).update)
