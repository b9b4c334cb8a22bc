"""Content types in and out."""

import io
import json

import numpy as np
import pytest

from serving.codecs import READERS, WRITERS, select_reader, select_top_k, select_writer, softmax, write_json
from serving.errors import EngineError, InvalidInput, NotAcceptable, UnsupportedContentType

JSON, NPY = "application/json", "application/x-npy"


@pytest.mark.parametrize("name", [*READERS, "IMAGE/JPEG", "image/png; charset=utf-8", " image/jpeg ;q=1"])
def test_a_known_content_type_is_read_however_it_is_written(name: str) -> None:
    assert select_reader(name, "identity") is READERS["image/jpeg"]


@pytest.mark.parametrize("name", [None, "", "image/heic", "image", "multipart/form-data; boundary=x", ";"])
def test_another_content_type_is_refused_with_those_that_are_read(name: str | None) -> None:
    with pytest.raises(UnsupportedContentType, match="expected image/jpeg or image/png"):
        select_reader(name)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (NPY, NPY),
        ("APPLICATION/X-NPY; version=1", NPY),
        (f"{JSON};q=0.4, {NPY};q=0.5", NPY),
        (f"{JSON};q=0.5, {NPY};q=0.4", JSON),
        (f"text/html, {NPY};q=0.1", NPY),
        (f"*/*, {NPY}", NPY),
        (f"*/*, {JSON};q=0", NPY),
        (f"{NPY};q=0.2, */*;q=0.3", JSON),
        (f"{NPY};q=nonsense, */*;q=0.1", JSON),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
    ],
)
def test_accept_is_followed_by_quality_and_then_by_exactness(accept: str | None, chosen: str) -> None:
    assert select_writer(accept).content_type == chosen


@pytest.mark.parametrize("accept", ["text/csv", "application/json;q=0", "*/*;q=0", "json", ",", "image/*"])
def test_what_is_not_written_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="expected application/json or application/x-npy"):
        select_writer(accept)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (None, 5),
        ("", 5),
        ("trace=1-abc", 5),
        ("just text, more", 5),
        ("TOP_K=2", 5),
        ("top_k=1", 1),
        ("a=b,top_k= 12 ,c", 12),
        ("top_k=007", 7),
    ],
)
def test_top_k_is_read_among_whatever_else_callers_send(attributes: str | None, expected: int) -> None:
    assert select_top_k(attributes, 5) == expected


def test_an_absurdly_large_top_k_means_all_labels() -> None:
    assert select_top_k("top_k=" + "9" * 1000, 5) > 10**8


@pytest.mark.parametrize("value", ["0", "00", "-3", "+3", "1.5", "three", "", "²", "1_0", "3;4"])
def test_a_top_k_that_is_no_count_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="expected a whole number from 1"):
        select_top_k(f"top_k={value}", 5)


def test_labels_with_equal_logits_are_ranked_by_index() -> None:
    logits = np.tile(np.array([1, 2], np.float32), 50)  # many, since unstable sorts are stable on a few
    answer = json.loads(write_json(logits, [str(index) for index in range(100)], 100, 1.0))
    assert [entry["index"] for entry in answer["predictions"]] == [*range(1, 100, 2), *range(0, 100, 2)]


def test_labels_are_written_as_they_are() -> None:
    assert "straße" in write_json(np.array([0, 1], np.float32), ["a", "straße"], 1, 1.0).decode()


def test_probabilities_of_large_logits_do_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([1000, 1000, -1000], np.float32)), [0.5, 0.5, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_engine_error_and_never_json(value: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        write_json(np.array([0, value], np.float32), ["a", "b"], 2, 1.0)


def test_the_default_is_json() -> None:
    assert WRITERS[0].content_type == JSON


def test_the_temperature_softens_probabilities_and_changes_no_order() -> None:
    logits = np.array([4, 0, 2], np.float32)
    answers = [json.loads(write_json(logits, list("abc"), 3, temperature))["predictions"] for temperature in (1, 4)]
    assert [[entry["label"] for entry in answer] for answer in answers] == [["a", "c", "b"]] * 2
    expected = np.exp([1, 0.5, 0]) / np.exp([1, 0.5, 0]).sum()
    np.testing.assert_allclose([entry["probability"] for entry in answers[1]], expected, atol=1e-8)


def test_labels_keep_the_order_of_their_logits_where_probabilities_are_equal() -> None:
    logits = np.array([0, 1, 1e4], np.float32)  # beside the last, the others have probability 0
    answer = json.loads(write_json(logits, list("abc"), 3, 0.05))
    assert [entry["label"] for entry in answer["predictions"]] == ["c", "b", "a"]


def test_raw_logits_know_no_temperature() -> None:
    logits = np.array([1, 2], np.float32)
    answered = np.load(io.BytesIO(select_writer(NPY).write(logits, ["a", "b"], 1, 3.0)))
    np.testing.assert_array_equal(answered, [logits])
