"""Configs: load, override, save, compare; and building things by name."""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from keyword import iskeyword
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

MANY = 80  # names; where there are more, an error does not list them


class ConfigError(ValueError):
    """A config that cannot be used; the message names the value, what was allowed, and what to do."""


def load(path: str, overrides: list[str] | tuple[str, ...] = ()) -> ConfigDict:
    """Returns the locked config of `path`, a Python file with `get_config(scale)`, or "file.py:smoke".

    `overrides` are arguments such as "--config.optimizer.clip=1.0"; values keep the type they had. Raises
    ConfigError for a missing file or variant, an unknown key (with the nearest match) or a value of the
    wrong type.
    """
    from absl import flags
    from ml_collections import config_flags

    file, _, scale = path.partition(":")
    arguments = ["dlx", *map(_quoted, overrides)]
    values = flags.FlagValues()
    config = _retyped(_made(Path(file), scale), list, tuple)
    for override in overrides:
        _check_key(path, config, override)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        rest = values(arguments)
    except (AttributeError, KeyError, TypeError, ValueError, flags.Error) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise ConfigError(f"{path}: {reason}") from error
    if len(rest) > 1:
        raise ConfigError(f"cannot read {rest[1]!r}; write overrides as --config.key=value")
    return _retyped(values.config, tuple, list).lock()


def _made(file: Path, scale: str) -> ConfigDict:
    """Returns what a config file makes of a variant, "" for none; one that changes nothing is a typo."""
    get_config = _source(file)
    try:
        plain = get_config()
        config = get_config(scale) if scale else plain
    except Exception as error:  # whatever the code of a config raises
        path = f"{file}:{scale}" if scale else str(file)
        raise ConfigError(f"{path} makes no config: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config of {file} returns {type(config).__name__}; a ConfigDict is needed")
    if scale not in ("", "full") and config.to_dict() == plain.to_dict():
        known = "':smoke' is one, and its docstring names others, if there are"
        raise ConfigError(f"{file} has no variant {scale!r}, which would change nothing; {known}")
    return config


def _check_key(path: str, config: ConfigDict, override: str) -> None:
    """Raises ConfigError for an override of a key that the config lacks, with the nearest of those it has."""
    found = re.match(r"--(?:no)?config\.([\w.]+)", override)
    place, passed = config, "config"
    for word in found[1].split(".") if found else []:
        if not isinstance(place, ConfigDict):
            return
        if word not in place:
            raise ConfigError(f"{path} has no {passed}.{word}{_nearest(word, sorted(place))}")
        place, passed = place[word], f"{passed}.{word}"


def _quoted(override: str) -> str:
    """Writes words of Python in a path, as in "--config.init.from=x", as a subscript, or they are no path."""
    path, equals, value = override.partition("=")
    words = re.sub(r"\.(\w+)", lambda word: f'["{word[1]}"]' if iskeyword(word[1]) else word[0], path)
    return words + equals + value


def _retyped(config: ConfigDict, old: type, new: type) -> ConfigDict:
    """Copies a config, its `old` sequences as `new` ones: overrides are parsed for tuples, not for lists."""
    copy = ConfigDict()
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            value = _retyped(value, old, new)
        copy[key] = new(value) if isinstance(value, old) else value
    return copy


def _source(file: Path) -> Callable[..., ConfigDict]:
    """Returns `get_config` of a config file."""
    import importlib.util

    if not file.is_file():
        known = [str(path) for path in sorted(Path("configs").glob("*/*.py"))]
        close = difflib.get_close_matches(file.stem, {Path(path).stem for path in known}, n=3)
        likely = difflib.get_close_matches(str(file), [p for p in known if Path(p).stem in close], 3, 0.0)
        hint = f"did you mean {' or '.join(map(repr, likely))}?" if likely else "configs/ has none like it"
        raise ConfigError(f"there is no config {file}; {hint}")
    spec = importlib.util.spec_from_file_location("dlx_config", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the code of a config raises
        raise ConfigError(f"{file} cannot be run: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{file} has no function get_config(scale)")
    return module.get_config


def save(config: ConfigDict, file: Path) -> None:
    """Writes `config` as JSON; the file appears whole or not at all."""
    fresh = file.with_suffix(".tmp")
    fresh.write_text(json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n")
    fresh.replace(file)


def read(file: Path) -> ConfigDict:
    """Returns the config that `save` wrote; raises ConfigError when there is none."""
    try:
        return ConfigDict(json.loads(file.read_text())).lock()
    except OSError as error:
        raise ConfigError(f"there is no run at {file.parent}: {file.name} cannot be read") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{file} is not the config of a run: {error}") from error


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested mappings by dotted path: {"model.name": "mlp", ...}."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        result |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return result


def digest(config: ConfigDict) -> str:
    """Returns the SHA-256 of what a config asks for, in hexadecimal digits: all its values but `published`.

    What others have found changes no run, so that a citation may be mended without measuring again.
    """
    values = {name: value for name, value in config.to_dict().items() if name != "published"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def difference(before: ConfigDict, after: ConfigDict) -> list[str]:
    """Returns a line for each value in which two configs differ."""
    old, new = (flat(json.loads(json.dumps(config.to_dict()))) for config in (before, after))
    show = {True: repr, False: lambda value: "(absent)"}
    return [
        f"config.{name}: {show[name in old](old.get(name))} -> {show[name in new](new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, ...) != new.get(name, ...)
    ]


def build(table: Mapping[str, Any], spec: Mapping | ConfigDict, **extra) -> Any:
    """Calls `table[spec.name]` with the other fields of `spec` and `extra`.

    Raises ConfigError for a name that is not in the table, or a field that the function does not take.
    """
    import inspect

    arguments = dict(spec) | extra
    function = lookup(table, arguments.pop("name", None))
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for field in arguments.keys() - parameters.keys():
            raise ConfigError(f"{spec['name']!r} takes no {field!r}{_nearest(field, list(parameters))}")
    return function(**arguments)


def lookup(table: Mapping[str, Any], name: Any) -> Any:
    """Returns `table[name]`; raises ConfigError with the nearest names when it is not there."""
    if name not in table:
        raise ConfigError(f"unknown name {name!r}{_nearest(str(name), sorted(table))}")
    return table[name]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    if len(known) > MANY:
        return f"; none of the {len(known)} that there are is like it"
    return f"; there are {', '.join(known)}" if known else ""
