"""Configurations are strict and frozen, and their identity is what decides a result."""

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from titanlab.platform.config import Config, digest, no_result, problems_of
from titanlab.platform.run_config import RunConfig, TrainConfig


class Part(Config):
    """A block."""

    size: int = Field(2, ge=1)
    rate: float = 0.5
    mode: Literal["token", "none"] = "token"
    place: str = no_result("here")


class Whole(Config):
    """A block with blocks."""

    part: Part = Field(default_factory=Part)
    parts: list[Part] = []
    steps: int = 10


def messages(config: type[Config], value: Any) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        config.model_validate(value)
    return [str(problem) for problem in problems_of(refused.value, lambda path: (".".join(map(str, path)), None))]


@pytest.mark.parametrize(
    "value, expected",
    [
        ({"part": {"sise": 1}}, "part.sise: unknown key 'sise'; did you mean 'size'? Known: mode, place, rate, size"),
        ({"part": {"size": 0}}, "part.size: expected a number of at least 1, got 0"),
        ({"part": {"size": "1"}}, "part.size: expected a whole number, got the text '1'"),
        ({"part": {"size": True}}, "part.size: expected a whole number, got the boolean true"),
        ({"part": {"rate": True}}, "part.rate: expected a number, got the boolean true"),
        ({"part": {"rate": float("nan")}}, "part.rate: expected a finite number, got nan"),
        (
            {"part": {"mode": "tokn"}},
            "part.mode: expected 'token' or 'none', got the text 'tokn'; did you mean 'token'?",
        ),
        ({"part": {"mode": "off"}}, "part.mode: expected 'token' or 'none', got the text 'off'; did you mean 'none'?"),
        ({"part": 3}, "part: expected a mapping of settings, got 3"),
        ({"parts": {"size": 1}}, "parts: expected a list, got {'size': 1}"),
        ({"parts": [{}, {"size": 0}]}, "parts.1.size: expected a number of at least 1, got 0"),
        ({"part": {"{x}": 1}}, "part.{x}: unknown key '{x}'. Known: mode, place, rate, size"),
    ],
)
def test_a_wrong_setting_says_what_was_expected(value: Any, expected: str) -> None:
    assert messages(Whole, value) == [expected]


def test_a_whole_number_does_for_a_fraction() -> None:
    assert type(Part(rate=1).rate) is float
    assert Part(rate=1).identity() == Part(rate=1.0).identity()


def test_a_configuration_is_frozen_and_replaced_with_validation() -> None:
    part = Part()
    with pytest.raises(ValidationError):
        part.size = 3  # type: ignore[misc]
    assert part.replace(size=3) == Part(size=3)
    with pytest.raises(ValidationError):
        part.replace(size=0)


def test_an_identity_holds_what_decides_the_result_and_differs_from_its_default() -> None:
    assert Whole().identity() == {}
    assert Whole(part=Part(size=2)).identity() == {}, "a default written out is the default"
    assert Whole(part=Part(place="there")).identity() == {}, "where it runs decides nothing"
    assert Whole(part=Part(size=3, place="there"), steps=11).identity() == {"part": {"size": 3}, "steps": 11}
    assert Whole(parts=[Part(size=3)]).identity() == {"parts": [{"size": 3}]}


def test_a_new_setting_with_a_default_orphans_no_old_trial() -> None:
    class Later(Part):
        added: int = 7

    assert digest(Later(size=3).identity()) == digest(Part(size=3).identity())


def test_the_device_and_the_name_are_no_part_of_a_runs_key() -> None:
    run = RunConfig()
    assert run.replace(name="other", train=TrainConfig(device="cpu", log_every=5)).key == run.key
    assert run.replace(train=TrainConfig(steps=11)).key != run.key
    seeded = run.replace(train=TrainConfig(seed=1))
    assert seeded.key != run.key and seeded.cell_key == run.cell_key


def test_settings_read_back_are_the_same_run() -> None:
    run = RunConfig.model_validate({"model": {"memory": {"type": "delta"}}, "train": {"steps": 7}})
    again = RunConfig.model_validate(run.settings())
    assert again == run and again.key == run.key
