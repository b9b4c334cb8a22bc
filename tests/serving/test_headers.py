"""What headers ask for."""

from dataclasses import dataclass

import pytest

from serving.errors import InvalidInput, NotAcceptable, UnsupportedContentType
from serving.headers import check_encoding, check_query, parse_attributes, parse_content_type, parse_top_k, preferred

JSON, NPY = "application/json", "application/x-npy"


@dataclass(frozen=True)
class Offered:
    content_type: str


OFFERED = (Offered(JSON), Offered(NPY))


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
    assert preferred(OFFERED, accept).content_type == chosen


@pytest.mark.parametrize("accept", ["text/csv", "application/json;q=0", "*/*;q=0", "json", ",", "image/*"])
def test_what_is_not_written_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="expected application/json or application/x-npy"):
        preferred(OFFERED, accept)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (None, 5),
        ("", 5),
        ("trace=1-abc", 5),
        ("just text, more", 5),
        ("top=2,stop_k=2,pixels=7", 5),
        ("my top k", 5),
        ("top_k=1", 1),
        ("a=b,top_k= 12 ,c", 12),
        ("top_k=007", 7),
    ],
)
def test_top_k_is_read_among_whatever_else_callers_send(attributes: str | None, expected: int) -> None:
    assert parse_top_k(parse_attributes(attributes), 5) == expected


@pytest.mark.parametrize(
    ("attributes", "meant"), [("topk=2", "top_k"), ("a=b, TOP-K =2", "top_k"), ("PixelRange=unit", "pixel_range")]
)
def test_a_name_that_is_nearly_ours_is_refused_with_the_right_one(attributes: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match=f"did you mean {meant}\\?"):
        parse_attributes(attributes)


def test_attributes_in_a_query_are_refused_and_whatever_else_stands_there_is_not() -> None:
    check_query(["label", "trace"])
    with pytest.raises(InvalidInput, match="'top_k' is not read in a query, expected top_k in the header X-Amzn"):
        check_query(["label", "top_k"])


def test_an_absurdly_large_top_k_means_all_labels() -> None:
    assert parse_top_k({"top_k": "9" * 1000}, 5) > 10**8


@pytest.mark.parametrize("value", ["0", "00", "-3", "+3", "1.5", "three", "", "²", "1_0", "3;4"])
def test_a_top_k_that_is_no_count_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="expected a whole number from 1"):
        parse_top_k(parse_attributes(f"top_k={value}"), 5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("image/jpeg", ("image/jpeg", {})),
        (" IMAGE/JPEG ; charset=utf-8", ("image/jpeg", {"charset": "utf-8"})),
        ('Multipart/Form-Data; BOUNDARY="a b;c"', ("multipart/form-data", {"boundary": "a b;c"})),
        (";", ("", {})),
        ("image", ("image", {})),
    ],
)
def test_a_content_type_is_taken_apart(value: str, expected: tuple[str, dict[str, str]]) -> None:
    name, parameters = parse_content_type(value)
    assert name == expected[0]
    assert expected[1].items() <= parameters.items()


@pytest.mark.parametrize("encoding", ["gzip", "br, identity", "x"])
def test_a_compressed_body_is_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedContentType, match="send the body as it is"):
        check_encoding(encoding)


@pytest.mark.parametrize("encoding", [None, "", "identity", " Identity "])
def test_a_body_as_it_is_is_taken(encoding: str | None) -> None:
    check_encoding(encoding)
