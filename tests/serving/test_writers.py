"""Content types out."""

import csv
import io
import json
from typing import Any

import numpy as np
import pytest

from serving.errors import EngineError
from serving.writers import WRITERS, Answer, softmax, write_csv, write_json, write_jsonlines, write_npy


def answer(
    logits: Any, labels: Any = "abc", *, top_k: int = 5, temperature: float = 1.0, single: bool = True
) -> Answer:
    rows = np.atleast_2d(np.array(logits, np.float32))
    return Answer(rows, list(labels), top_k, temperature, single)


def predictions(written: bytes) -> Any:
    return json.loads(written)["predictions"]


def test_labels_with_equal_logits_are_ranked_by_index() -> None:
    logits = np.tile(np.array([1, 2], np.float32), 50)  # many, since unstable sorts are stable on a few
    ranked = predictions(write_json(answer(logits, map(str, range(100)), top_k=100)))
    assert [entry["index"] for entry in ranked] == [*range(1, 100, 2), *range(0, 100, 2)]


def test_labels_are_written_as_they_are() -> None:
    assert "straße" in write_json(answer([0, 1], ["a", "straße"], top_k=1)).decode()


def test_probabilities_of_large_logits_do_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([1000, 1000, -1000], np.float32)), [0.5, 0.5, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("write", [write_json, write_jsonlines, write_csv])
def test_logits_that_are_no_numbers_are_an_engine_error_and_never_an_answer(write: Any, value: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        write(answer([0, value], "ab"))


def test_the_default_is_json() -> None:
    assert WRITERS[0].content_type == "application/json"


def test_the_temperature_softens_probabilities_and_changes_no_order() -> None:
    ranked = [predictions(write_json(answer([4, 0, 2], temperature=temperature))) for temperature in (1, 4)]
    assert [[entry["label"] for entry in row] for row in ranked] == [["a", "c", "b"]] * 2
    expected = np.exp([1, 0.5, 0]) / np.exp([1, 0.5, 0]).sum()
    np.testing.assert_allclose([entry["probability"] for entry in ranked[1]], expected, atol=1e-8)


def test_labels_keep_the_order_of_their_logits_where_probabilities_are_equal() -> None:
    ranked = predictions(
        write_json(answer([0, 1, 1e4], temperature=0.05))
    )  # beside the last, others have probability 0
    assert [entry["label"] for entry in ranked] == ["c", "b", "a"]


def test_raw_logits_know_no_temperature() -> None:
    answered = np.load(io.BytesIO(write_npy(answer([[1, 2], [3, 4]], "ab", top_k=1, temperature=3.0))))
    np.testing.assert_array_equal(answered, np.array([[1, 2], [3, 4]], np.float32))


def test_of_one_picture_the_answer_is_its_labels_and_of_several_a_list_for_each() -> None:
    single = predictions(write_json(answer([0, 1, 2], top_k=1)))
    several = predictions(write_json(answer([[0, 1, 2], [2, 1, 0]], top_k=1, single=False)))
    assert single[0]["label"] == "c"
    assert [ranked[0]["label"] for ranked in several] == ["c", "a"]


def test_json_lines_have_a_line_for_each_picture_as_json_has_it() -> None:
    lines = write_jsonlines(answer([[0, 1, 2], [2, 1, 0]], single=False)).splitlines()
    assert [predictions(line)[0]["label"] for line in lines] == ["c", "a"]
    assert lines[0] == write_json(answer([0, 1, 2]))


def test_csv_has_a_line_for_each_label_of_each_picture_and_quotes_what_needs_it() -> None:
    rows = list(
        csv.DictReader(io.StringIO(write_csv(answer([[0, 1], [1, 0]], ['a,"b"\n', "c"], single=False)).decode()))
    )
    assert [(row["picture"], row["rank"], row["label"]) for row in rows] == [
        ("0", "1", "c"), ("0", "2", 'a,"b"\n'), ("1", "1", 'a,"b"\n'), ("1", "2", "c"),
    ]  # fmt: skip
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(2)
