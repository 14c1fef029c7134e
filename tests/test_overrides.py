"""`--set`: values by YAML's rules, blocks replaced as wholes, and a place that names the option."""

import pytest

from titanlab.platform.errors import ConfigError
from titanlab.platform.overrides import apply_overrides
from titanlab.platform.yaml_source import Document, parse_yaml

FILE = """
base:
  train: {steps: 10, clip: 1.0}
axes:
  model.dim: [16, 32]
"""


def document() -> Document:
    return parse_yaml(FILE, "sweep.yaml")


def test_values_are_read_as_yaml() -> None:
    changed = apply_overrides(
        parse_yaml("a: 1", "f.yaml"), ["x.rate=1e-3", "x.word=off", "x.list=[1, 2]", "x.none=", "x.text='1'", "a=b=c"]
    )
    assert changed.value == {
        "a": "b=c",
        "x": {"rate": 1e-3, "word": "off", "list": [1, 2], "none": None, "text": "1"},
    }


def test_the_later_of_two_overrides_counts_and_the_given_document_stays() -> None:
    given = document()
    changed = apply_overrides(given, ["train.steps=1", "train.steps=2"], root=("base",))
    assert changed.value["base"]["train"] == {"steps": 2, "clip": 1.0}
    assert given.value == document().value


def test_a_mapping_replaces_its_block() -> None:
    changed = apply_overrides(document(), ["base.train={steps: 3}"])
    assert changed.value["base"]["train"] == {"steps": 3}


def test_the_place_of_an_overridden_value_is_the_option() -> None:
    changed = apply_overrides(document(), ["train.steps=3", "task.type=mqar"], root=("base",))
    assert str(changed.location(("base", "train", "steps"))) == "--set train.steps=3"
    assert str(changed.location(("base", "task", "type"))) == "--set task.type=mqar"
    assert str(changed.location(("base", "task", "length"))) == "--set task.type=mqar"
    assert str(changed.location(("base", "train", "clip"))) == "sweep.yaml:3:22"


def test_what_follows_a_dotted_block_is_one_key() -> None:
    changed = apply_overrides(document(), ["axes.model.dim=[64]", "axes.model.layers=[1]"], dotted_blocks=("axes",))
    assert changed.value["axes"] == {"model.dim": [64], "model.layers": [1]}


@pytest.mark.parametrize(
    "override", ["a", "=1", "a..b=1", ".a=1", "a=[", "a={b: 1, b: 2}", "a=1\nb: 2", "base.train.steps.x=1"]
)
def test_a_bad_override_is_an_error_that_shows_it(override: str) -> None:
    with pytest.raises(ConfigError) as error:
        apply_overrides(document(), [override])
    assert str(error.value).startswith(f"--set {override}: ")
