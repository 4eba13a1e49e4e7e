import pytest
from ml_collections import ConfigDict

from dlx.configuration import ConfigError, build, difference, digest, load, lookup, read, save

FILE = """
from ml_collections import ConfigDict
def get_config(scale="full"):
    config = ConfigDict({"rate": 0.1, "steps": 10, "wide": False, "model": {"name": "mlp", "hidden": [8, 8]}})
    if scale == "smoke":
        config.steps = 1
    return config
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(FILE)
    return str(file)


def test_overrides_keep_the_type_of_the_value(path):
    config = load(
        path, ["--config.rate=2", "--config.model.name=lenet", "--config.wide=true", "--config.steps=7"]
    )
    assert (config.rate, config.model.name, config.wide, config.steps) == (2.0, "lenet", True, 7)
    assert isinstance(config.rate, float)
    assert load(path, ["--config.model.hidden=[4,2,1]"]).model.hidden == [4, 2, 1]
    assert load(path).model.hidden == [8, 8]
    assert load(path).steps == 10 and load(f"{path}:smoke").steps == 1


@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.ratee=2", "has no config.ratee; did you mean 'rate'"),
        ("--config.model.nme=x", "has no config.model.nme; did you mean 'name'"),
        ("--config.model.lr=2", "has no config.model.lr; there are hidden, name"),
        ("--config.rate.peak=2", "peak"),
        ("--noconfig.wid", "has no config.wid; did you mean 'wide'"),
        ("--config.steps=ten", "ten"),
        ("config.steps=3", "write overrides as --config.key=value"),
    ],
)
def test_a_wrong_override_is_named(path, override, message):
    with pytest.raises(ConfigError, match=message):
        load(path, [override])


@pytest.mark.parametrize("scale", ["smok", "Smoke", "10"])
def test_a_variant_that_changes_nothing_is_a_typo(path, scale):
    with pytest.raises(ConfigError, match=f"has no variant '{scale}'.*':smoke' is one"):
        load(f"{path}:{scale}")


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(scale):\n    return 1 / 0", r"makes no config: TypeError"),
        ("def get_config(scale=''):\n    return {'': 1}[scale]", "returns int; a ConfigDict is needed"),
        ("def get_config(scale=''):\n    return {}[scale]", "makes no config: KeyError: ''"),
        ("def get_config(:", "cannot be run: SyntaxError"),
        ("import nowhere_to_be_found", "cannot be run: ModuleNotFoundError: .*nowhere_to_be_found"),
        ("x = 1", "has no function get_config"),
    ],
)
def test_a_broken_config_file_is_named(tmp_path, text, message):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(ConfigError, match=rf"broken\.py.*{message}"):
        load(str(tmp_path / "broken.py"))


def test_a_config_is_locked(path):
    with pytest.raises(AttributeError, match="rate"):
        load(path).ratee = 1


def test_a_missing_file_names_the_nearest(monkeypatch, tmp_path):
    (tmp_path / "configs" / "vision").mkdir(parents=True)
    (tmp_path / "configs" / "vision" / "digits.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"there is no config configs/vision/digit\.py; did you mean .*digits\.py"
    ):
        load("configs/vision/digit.py")
    with pytest.raises(
        ConfigError, match=r"there is no config digits; did you mean 'configs/vision/digits\.py'"
    ):
        load("digits")
    with pytest.raises(ConfigError, match="there is no config zzz; configs/ has none like it"):
        load("zzz")


def test_a_saved_config_reads_back_equal_and_a_difference_is_shown(path, tmp_path):
    config = load(path)
    save(config, tmp_path / "config.json")
    assert difference(read(tmp_path / "config.json"), config) == []
    other = load(path, ["--config.rate=0.5"])
    assert difference(config, other) == ["config.rate: 0.1 -> 0.5"]
    assert difference(ConfigDict({"a": 1}), ConfigDict({"b": {"c": 2}})) == [
        "config.a: 1 -> (absent)",
        "config.b.c: (absent) -> 2",
    ]


def test_reading_where_there_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="there is no run at"):
        read(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not the config of a run"):
        read(tmp_path / "config.json")


def test_the_digest_is_of_what_is_run_and_not_of_what_others_found(path):
    config = load(path)
    cited, other = load(path), load(path, ["--config.rate=0.2"])
    cited.unlock()
    cited.published = {"metric": "accuracy", "value": 0.9, "higher_is_better": True, "source": "a paper"}
    assert digest(config) == digest(load(path)) == digest(cited) != digest(other)


def test_build_calls_by_name_and_a_wrong_name_or_field_gets_the_nearest():
    table = {"square": lambda side: side**2, "cube": lambda side: side**3}
    assert build(table, ConfigDict({"name": "cube", "side": 2})) == 8
    assert build(table, {"name": "square"}, side=3) == 9
    with pytest.raises(ConfigError, match="unknown name 'sqare'; did you mean 'square'"):
        build(table, {"name": "sqare", "side": 1})
    with pytest.raises(ConfigError, match="'cube' takes no 'sides'; did you mean 'side'"):
        build(table, {"name": "cube", "sides": 1})
    with pytest.raises(ConfigError, match="there are cube, square"):
        lookup(dict(sorted(table.items())), "zzz")
    with pytest.raises(ConfigError, match="unknown name 'zzz'; none of the 90 that there are is like it"):
        lookup({f"name{number}": number for number in range(90)}, "zzz")


def test_a_key_that_is_a_word_of_python_can_be_overridden_too(tmp_path):
    file = tmp_path / "c.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'init': {'from': '', 'new_head': True}})\n"
    )
    config = load(str(file), ["--config.init.from=runs/a.from=b", "--config.init.new_head=false"])
    assert config.to_dict() == {"init": {"from": "runs/a.from=b", "new_head": False}}
