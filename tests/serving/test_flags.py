"""One settings model, several sources of values: precedence, names and messages."""

from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, field_validator, model_validator

from serving.errors import ConfigError
from serving.flags import Layer, documentation, nearest, parse_arguments, resolve, setting


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Oven(BaseModel):
    data: Path = setting(help="folder of dough")
    learning_rate: float = setting(0.01, gt=0, le=1, help="how fast it browns", aliases=["lr"])
    epochs: int = setting(3, ge=1, unit="epochs", help="how often to turn it")
    mode: Literal["fan", "grill"] = setting("fan", help="where heat comes from")
    color: Color = setting(Color.RED, help="of its light, 100 % bright")
    is_quiet: bool = setting(False, help="whether to ring")
    seed: int | None = setting(None, help="of the dice")

    @field_validator("epochs")
    @classmethod
    def _no_thirteen(cls, value: int) -> int:
        if value == 13:
            raise ValueError("brings bad luck")
        return value

    @model_validator(mode="after")
    def _grill_slowly(self) -> "Oven":
        if self.mode == "grill" and self.learning_rate == 1:
            raise ValueError("--mode grill with --learning-rate 1 burns")
        return self


def flags(*arguments: str) -> Layer:
    return parse_arguments(Oven, arguments, prog="oven", description="Bakes.")


def bake(*arguments: str, **environment: str) -> Oven:
    return resolve(Oven, [Layer("variable", environment), flags("--data", "d", *arguments)])


def refused(*arguments: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        bake(*arguments, **environment)
    return str(caught.value)


def test_a_flag_wins_over_an_earlier_layer_and_that_over_the_default() -> None:
    assert bake().epochs == 3
    assert bake(epochs="4").epochs == 4
    assert bake("--epochs", "5", epochs="4").epochs == 5


def test_values_arrive_as_strings_and_leave_as_what_they_are() -> None:
    oven = bake("--learning-rate", "3e-4", "--mode", "grill", "--color", "blue", "--seed", "7", "--is-quiet", "false")
    assert (oven.learning_rate, oven.mode, oven.color, oven.seed) == (3e-4, "grill", Color.BLUE, 7)
    assert oven.is_quiet is False
    assert oven.data == Path("d")


def test_a_bare_switch_is_on() -> None:
    assert bake("--is-quiet").is_quiet is True
    assert bake("--is-quiet", "--epochs", "4").epochs == 4


def test_an_alias_and_any_spelling_name_the_same_setting() -> None:
    assert bake("--lr", "0.5").learning_rate == 0.5
    for name in ("lr", "learning-rate", "learning_rate"):
        assert bake(**{name: "0.5"}).learning_rate == 0.5


def test_one_setting_under_two_names_is_refused() -> None:
    assert "'lr' and 'learning-rate' are the same setting" in refused(**{"lr": "1", "learning-rate": "2"})


@pytest.mark.parametrize(
    ("given", "named"),
    [("--epoch", "--epochs"), ("--learning_rat", "--learning-rate"), ("--dta", "--data")],
)
def test_an_unknown_flag_is_refused_with_the_nearest_one(given: str, named: str) -> None:
    assert f"{given} is not a flag of oven, did you mean {named}?" in refused(given, "1")


def test_a_flag_is_not_completed_from_its_beginning() -> None:
    assert "--learn is not a flag" in refused("--learn", "1")


def test_an_unknown_name_in_a_layer_is_refused_with_the_nearest_one() -> None:
    assert refused(epoch="1") == "variable 'epoch' is unknown, did you mean epochs?"


def test_a_flag_without_its_value_is_refused() -> None:
    assert "expected one argument" in refused("--epochs")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--lr", "fast"), '--learning-rate got "fast", expected a number above 0 and at most 1'),
        (("--lr", "2"), '--learning-rate got "2", expected a number above 0 and at most 1'),
        (("--epochs", "0"), '--epochs got "0", expected a whole number at least 1'),
        (("--epochs", "1.5"), '--epochs got "1.5", expected a whole number at least 1'),
        (("--epochs", "13"), '--epochs got "13", expected a whole number at least 1 (brings bad luck)'),
        (("--mode", "steam"), '--mode got "steam", expected one of fan, grill'),
        (("--color", "green"), '--color got "green", expected one of red, blue'),
        (("--is-quiet", "perhaps"), '--is-quiet got "perhaps", expected true or false'),
        (("--mode", "grill", "--lr", "1"), "--mode grill with --learning-rate 1 burns"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_found_and_what_is_expected(
    arguments: tuple[str, ...], sentence: str
) -> None:
    assert refused(*arguments) == sentence


def test_a_wrong_value_of_a_layer_is_named_as_it_was_given_there() -> None:
    assert refused(lr="fast") == "variable 'lr' got \"fast\", expected a number above 0 and at most 1"


def test_a_missing_value_is_refused_with_its_flag_and_meaning() -> None:
    with pytest.raises(ConfigError, match="--data is missing, expected a path: folder of dough"):
        resolve(Oven, [flags()])


def test_help_shows_each_flag_with_meaning_unit_range_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        flags("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert "--learning-rate X, --lr X" in text
    assert "how fast it browns (a number above 0 and at most 1; default 0.01)" in text
    assert "how often to turn it (a whole number at least 1; in epochs; default 3)" in text
    assert "--mode fan|grill" in text
    assert "100 % bright" in text
    assert "whether to ring (default false)" in text
    assert "(required)" in text


def test_documentation_has_every_setting_in_order() -> None:
    documented = documentation(Oven)
    assert [entry.name for entry in documented] == list(Oven.model_fields)
    by_name = {entry.name: entry for entry in documented}
    assert by_name["data"].is_required
    assert by_name["learning_rate"].flag == "--learning-rate"
    assert by_name["learning_rate"].aliases == ("lr",)
    assert by_name["epochs"].unit == "epochs"
    assert by_name["seed"].default is None


def test_nothing_is_suggested_when_nothing_is_near() -> None:
    assert nearest("zzz", ["epochs", "mode"]) == ""
