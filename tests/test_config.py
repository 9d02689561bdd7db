from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vactk import config
from vactk.errors import VactkError


@dataclass(frozen=True, kw_only=True)
class Plain:
    layers: int = 2


@dataclass(frozen=True, kw_only=True)
class Windowed:
    window: int = 1
    ends: Literal["zero", "masked"] = "zero"


CHOICES = {"plain": Plain, "windowed": Windowed}


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise VactkError(f"lr must be above 0, got {self.lr}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    epochs: int = 5
    name: str = "run"
    flag: bool = False
    layers: tuple[int, ...] = ()
    optim: Optim = field(default_factory=Optim)
    temporal: Plain | Windowed = field(default_factory=Plain, metadata=config.table(CHOICES, "module"))


def test_scientific_notation_without_a_dot_is_a_number():
    assert yaml.safe_load("1e-4") == "1e-4"  # the trap
    assert config.build(Settings, config.parse_overrides(["optim.lr=1e-4"])).optim.lr == 1e-4


def test_every_mistake_is_reported_at_once():
    values = {"epochs": "many", "optim": {"rl": 1, "betas": [1]}, "temporal": {"name": "windwed"}, "flag": 1}
    with pytest.raises(VactkError) as caught:
        config.build(Settings, values)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert "'epochs' must be a whole number, got 'many'" in lines
    assert "unknown setting 'optim.rl'; did you mean 'optim.lr'?" in lines
    assert "'optim.betas' must be a list of 2 numbers, got [1]" in lines
    assert "temporal: unknown module 'windwed'; did you mean 'windowed'?" in lines
    assert "'flag' must be true or false, got 1" in lines


def test_a_check_of_the_class_itself_names_its_place():
    with pytest.raises(VactkError, match="optim: lr must be above 0, got -1"):
        config.build(Settings, {"optim": {"lr": -1}})


def test_another_choice_drops_the_settings_of_the_former():
    recipe = {"temporal": {"name": "windowed", "window": 3}}
    changed = config.merge(recipe, config.parse_overrides(["temporal=plain"]))
    assert config.build(Settings, changed).temporal == Plain()
    kept = config.merge(recipe, config.parse_overrides(["temporal.ends=masked"]))
    assert config.build(Settings, kept).temporal == Windowed(window=3, ends="masked")


def test_a_choice_can_be_named_before_or_after_its_settings_or_left_as_it_is():
    for items in (["temporal=windowed", "temporal.window=2"], ["temporal.window=2", "temporal=windowed"]):
        changed = config.merge({}, config.parse_overrides(items))
        assert config.build(Settings, changed).temporal == Windowed(window=2)
    assert config.build(Settings, {"temporal": {"layers": 7}}).temporal == Plain(layers=7)
    with pytest.raises(VactkError, match="'temporal' must be one of plain, windowed, got 3"):
        config.build(Settings, {"temporal": 3})


@pytest.mark.parametrize("item", ["lr", "=3", "lr:3"])
def test_a_setting_without_a_value_is_refused(item):
    with pytest.raises(VactkError, match="key=value"):
        config.parse_overrides([item])


def test_yaml_that_is_not_settings_is_refused(tmp_path):
    for text, message in [("- 1", "not a list"), ("a: [", "not valid YAML")]:
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(VactkError, match=message):
            config.read_yaml(tmp_path / "bad.yaml")
    with pytest.raises(VactkError, match=r"cannot read .*absent\.yaml"):
        config.read_yaml(tmp_path / "absent.yaml")


@given(
    st.builds(
        Settings,
        epochs=st.integers(),
        name=st.text(),
        flag=st.booleans(),
        layers=st.lists(st.integers()).map(tuple),
        optim=st.builds(Optim, lr=st.floats(1e-9, 1e3), warmup=st.none() | st.floats(0, 1)),
        temporal=st.builds(Plain, layers=st.integers()) | st.builds(Windowed, ends=st.just("masked")),
    )
)
def test_saved_settings_build_an_equal_config(settings):
    assert config.build(Settings, yaml.safe_load(config.to_yaml(settings))) == settings


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([f.name for f in dataclasses.fields(Settings)] + ["optim.lr", "temporal.window", "x"])


@given(st.dictionaries(names, plain, max_size=4))
def test_any_values_make_a_config_that_comes_back_or_an_error_in_words(values):
    try:
        built = config.build(Settings, config.nest(values))
    except VactkError:
        return
    assert config.build(Settings, yaml.safe_load(config.to_yaml(built))) == built


@given(st.lists(st.text(max_size=20) | st.tuples(names, st.text(max_size=12)).map("=".join), max_size=3))
def test_any_settings_are_taken_or_refused_in_words(items):
    with contextlib.suppress(VactkError):
        config.build(Settings, config.parse_overrides(items))


def test_yaml_that_grows_without_end_is_shown_in_short(tmp_path):
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{n}: &a{n + 1} [*a{n}, *a{n}, *a{n}, *a{n}, *a{n}, *a{n}, *a{n}, *a{n}]" for n in range(30)]
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "epochs: *a30", "optim: &o {lr: *o}"]))
    with pytest.raises(VactkError, match="'epochs' must be a whole number") as error:
        config.build(Settings, config.read_yaml(tmp_path / "bomb.yaml"))
    assert len(str(error.value)) < 20_000


@pytest.mark.parametrize("name", ["null", "[plain]", "3", "{plain: 1}"])
def test_a_choice_that_is_no_name_is_refused(name):
    with pytest.raises(VactkError, match="temporal: unknown module"):
        config.build(Settings, config.parse_overrides([f"temporal={{name: {name}}}"]))
