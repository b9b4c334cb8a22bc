"""The page at `/`, in a real browser, of a real server."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.bundle import Bundle
from tests.support import images
from tests.support.bundles import LABELS, reseal, write_bundle
from tests.support.chromium import Tab
from tests.support.servers import Server, forked_serving, wait_for


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("maps"), with_maps=True)


def opened(tab: Tab, server: Server, *, is_dark: bool = False, width: int = 1280) -> Tab:
    tab.open(f"{server.url}/", is_dark=is_dark, width=width)
    wait_for(lambda: tab.count("#card dd") > 0, "the card")
    return tab


def ask(tab: Tab, picture: Path) -> None:
    tab.choose("#file", picture)
    is_answered = "!document.querySelector('#answer').hidden || !document.querySelector('#problem').hidden"
    wait_for(lambda: tab.evaluate(is_answered), "an answer")


def test_a_chosen_picture_is_shown_with_its_labels_as_bars(tab: Tab, server: Server, tmp_path: Path) -> None:
    picture = tmp_path / "rex.jpg"
    picture.write_bytes(images.jpeg(seed=3))
    ask(opened(tab, server), picture)
    expected = server.post(picture.read_bytes()).json()["predictions"]
    shown = tab.evaluate("[...document.querySelectorAll('#labels bdi')].map((node) => node.textContent)")
    bars = tab.evaluate("[...document.querySelectorAll('#labels progress')].map((node) => node.value)")
    assert shown == [entry["label"] for entry in expected]
    assert bars == pytest.approx([entry["probability"] for entry in expected], abs=1e-6)
    assert tab.text("#verdict") == f"{shown[0]}, {100 * bars[0]:.1f} %"
    assert tab.text("#name") == "rex.jpg"
    wait_for(lambda: tab.evaluate("document.querySelector('#picture').naturalWidth") == 80, "the picture")
    assert all(f"{phase} " in tab.text("#timing") for phase in ("decode", "queue", "model"))


def test_what_is_no_picture_is_a_sentence_and_the_next_one_is_answered(
    tab: Tab, server: Server, tmp_path: Path
) -> None:
    text, picture = tmp_path / "notes.txt", tmp_path / "rex.jpg"
    text.write_text("no picture")
    picture.write_bytes(images.jpeg())
    ask(opened(tab, server), text)
    assert "is not a picture" in tab.text("#problem")
    assert tab.evaluate("document.querySelector('#answer').hidden")
    tab.choose("#file", picture)
    wait_for(lambda: tab.evaluate("!document.querySelector('#answer').hidden"), "an answer")
    assert tab.evaluate("document.querySelector('#problem').hidden")


def test_it_says_what_the_model_is_and_how_to_ask_from_a_shell(tab: Tab, server: Server, bundle: Bundle) -> None:
    opened(tab, server)
    assert bundle.manifest.architecture in tab.text("#about")
    assert tab.text("#count") == str(len(LABELS))
    assert tab.count("#all li") == len(LABELS)
    assert f"{server.url}/invocations" in tab.text("#curl")


@pytest.mark.parametrize("is_dark", [False, True])
def test_it_asks_its_own_server_alone_and_the_browser_complains_of_nothing(
    tab: Tab, server: Server, tmp_path: Path, is_dark: bool
) -> None:
    picture = tmp_path / "rex.png"
    picture.write_bytes(images.encode(images.noise(30, 40), "PNG"))
    ask(opened(tab, server, is_dark=is_dark), picture)
    paths = [url.removeprefix(server.url) for url in tab.requests if not url.startswith("blob:")]
    assert paths == ["/", "/card", "/invocations"]
    assert tab.complaints == []


PLACES = (
    ("in the upper left", "at the top", "in the upper right"),
    ("on the left", "in the middle", "on the right"),
    ("in the lower left", "at the bottom", "in the lower right"),
)
IS_MAPPED = "!document.querySelector('#map').hidden"
PIXELS = """(() => { const map = document.querySelector('#map'); map.scrollIntoView();
  return [...map.getContext('2d').getImageData(0, 0, map.width, map.height).data] })()"""


def pressed(tab: Tab) -> list[str]:
    """Labels whose map is said to be shown."""
    found = "[...document.querySelectorAll('#labels button[aria-pressed=true]')].map((node) => node.textContent)"
    return list(tab.evaluate(found))


def look(tab: Tab) -> None:
    tab.evaluate("document.querySelector('#look').click()")
    wait_for(lambda: tab.evaluate(IS_MAPPED), "the map")


def test_where_the_model_looked_lies_over_the_picture_and_goes_again(tab: Tab, server: Server, tmp_path: Path) -> None:
    picture = tmp_path / "rex.jpg"
    picture.write_bytes(images.jpeg(seed=3))
    ask(opened(tab, server), picture)
    assert not tab.evaluate(IS_MAPPED)
    assert tab.evaluate("document.querySelector('#look').getAttribute('aria-pressed')") == "false"
    look(tab)
    best = server.post(picture.read_bytes()).json()["predictions"][0]["label"]
    assert tab.evaluate("document.querySelector('#look').getAttribute('aria-pressed')") == "true"
    assert pressed(tab) == [best]
    assert tab.text("#found").startswith(f"What speaks for {best}: most ")
    assert tab.evaluate("document.querySelector('#map').getAttribute('aria-label')").startswith(
        "Where the model looked"
    )
    boxes = [
        tab.evaluate(f"JSON.stringify(document.querySelector('{at}').getBoundingClientRect())")
        for at in ("#picture", "#map")
    ]
    assert boxes[0] == boxes[1]
    tab.evaluate("document.querySelector('#look').click()")
    assert not tab.evaluate(IS_MAPPED)
    assert tab.evaluate("document.querySelector('#legend').hidden")
    assert pressed(tab) == []
    assert tab.complaints == []


def test_the_map_covers_what_the_network_saw_in_the_colours_of_its_numbers(
    tab: Tab, server: Server, tmp_path: Path
) -> None:
    picture = tmp_path / "wide.png"
    picture.write_bytes(images.encode(images.noise(60, 120), "PNG"))
    ask(opened(tab, server), picture)
    look(tab)
    answer = httpx.post(
        f"{server.url}/activation-map", content=picture.read_bytes(), headers={"Content-Type": "image/png"}
    ).json()
    width, height = tab.evaluate("[document.querySelector('#map').width, document.querySelector('#map').height]")
    assert (width, height) == (840, 420)
    painted = np.array(tab.evaluate(PIXELS), np.uint8).reshape(height, width, 4)
    seen = answer["seen"]["height"] * 420, answer["seen"]["width"] * 420
    top, left = (420 - seen[0]) / 2, (840 - seen[1]) / 2
    veil = painted[..., :3].max(axis=2) == 0
    assert veil[:, : int(left) - 1].all()
    assert veil[: int(top) - 1].all()
    assert not veil[round(top) + 2 : -round(top) - 2, round(left) + 2 : -round(left) - 2].any()
    rows = np.array(answer["rows"])
    for value, colour in ((1.0, (253, 231, 37)), (0.0, (68, 1, 84))):
        place = np.argwhere(rows == value)[0]
        y, x = (
            round(edge + side * (index + 0.5) / count)
            for edge, side, index, count in zip((top, left), seen, place, rows.shape, strict=True)
        )
        np.testing.assert_allclose(painted[y, x, :3], colour, atol=12)
    row, column = (int(3 * (at + 0.5) / count) for at, count in zip(np.argwhere(rows == 1)[0], rows.shape, strict=True))
    assert f": most {PLACES[row][column]}. It did not see what is darkened." in tab.text("#found")


def test_another_label_has_another_map_by_a_click_or_by_the_keyboard(tab: Tab, server: Server, tmp_path: Path) -> None:
    picture = tmp_path / "rex.jpg"
    picture.write_bytes(images.jpeg(seed=3))
    ask(opened(tab, server), picture)
    look(tab)
    first = tab.evaluate(PIXELS)
    labels = [entry["label"] for entry in server.post(picture.read_bytes()).json()["predictions"]]
    tab.evaluate("document.querySelector('#labels li:nth-child(2) progress').click()")
    wait_for(lambda: tab.evaluate(IS_MAPPED) and labels[1] in tab.text("#found"), "the map of the second label")
    assert pressed(tab) == [labels[1]]
    assert tab.evaluate(PIXELS) != first
    tab.evaluate("document.querySelector('#labels li:nth-child(3) button').focus()")
    tab.press("Enter")
    wait_for(lambda: tab.evaluate(IS_MAPPED) and labels[2] in tab.text("#found"), "the map of the third label")
    assert pressed(tab) == [labels[2]]


def test_a_new_picture_has_no_map_until_it_is_asked_for(tab: Tab, server: Server, tmp_path: Path) -> None:
    first, second = tmp_path / "rex.jpg", tmp_path / "fido.jpg"
    first.write_bytes(images.jpeg(seed=3))
    second.write_bytes(images.jpeg(seed=4))
    ask(opened(tab, server), first)
    look(tab)
    before = tab.evaluate(PIXELS)
    tab.choose("#file", second)
    wait_for(lambda: tab.text("#name") == "fido.jpg", "the second answer")
    assert not tab.evaluate(IS_MAPPED)
    assert pressed(tab) == []
    look(tab)
    assert tab.evaluate(PIXELS) != before


def test_a_map_that_cannot_be_had_is_a_sentence_and_the_labels_stay(tab: Tab, tmp_path: Path, bundle: Bundle) -> None:
    picture = tmp_path / "rex.jpg"
    picture.write_bytes(images.jpeg())
    with forked_serving(bundle.folder, tmp_path / "log") as server:
        ask(opened(tab, server.wait_until_ready()), picture)
        server.stop()
        tab.evaluate("document.querySelector('#look').click()")
        wait_for(lambda: tab.evaluate("!document.querySelector('#unmapped').hidden"), "the reason")
    assert tab.text("#unmapped") == "the server cannot be reached"
    assert tab.evaluate("document.querySelector('#look').getAttribute('aria-pressed')") == "false"
    assert not tab.evaluate(IS_MAPPED)
    assert not tab.evaluate("document.querySelector('#answer').hidden")


def test_a_model_without_maps_has_no_button_for_them(tab: Tab, tmp_path: Path) -> None:
    picture = tmp_path / "rex.jpg"
    picture.write_bytes(images.jpeg())
    with forked_serving(write_bundle(tmp_path / "old").folder, tmp_path / "log") as server:
        ask(opened(tab, server.wait_until_ready()), picture)
        assert tab.evaluate("document.querySelector('#where').hidden")
        assert tab.count("#labels button") == 0
        assert tab.count("#labels bdi") > 0


def test_it_fits_a_telephone(tab: Tab, server: Server, tmp_path: Path) -> None:
    picture = tmp_path / ("long name " * 20 + ".jpg")
    picture.write_bytes(images.jpeg())
    ask(opened(tab, server, width=360), picture)
    look(tab)
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_keyboard_reaches_everything_and_everything_has_a_name(tab: Tab, server: Server, tmp_path: Path) -> None:
    picture = tmp_path / "rex.jpg"
    picture.write_bytes(images.jpeg())
    ask(opened(tab, server), picture)
    look(tab)
    reached = []
    for _ in range(12):
        tab.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"file", "copy", "SUMMARY", "look", "BUTTON"} <= set(reached)
    nodes = tab.send("Accessibility.getFullAXTree")["nodes"]
    nameless = [
        node["role"]["value"]
        for node in nodes
        if node.get("role", {}).get("value") in {"button", "form", "progressbar", "image", "DisclosureTriangle"}
        and not node.get("name", {}).get("value")
    ]
    assert nameless == []


def test_its_policy_allows_its_own_script_and_no_other(server: Server) -> None:
    answer = httpx.get(f"{server.url}/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["content-type"].startswith("text/html")


def test_a_label_that_looks_like_markup_is_text(tab: Tab, tmp_path: Path, own_bundle: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    reseal(own_bundle, labels=[hostile, *LABELS[1:]])
    with forked_serving(own_bundle, tmp_path / "log") as server:
        opened(tab, server.wait_until_ready())
        assert tab.text("#all li") == hostile
        assert tab.count("#all img") == 0


def test_of_a_server_of_many_models_it_says_where_they_are(tab: Tab, tmp_path: Path, bundle: Bundle) -> None:
    with forked_serving(bundle.folder, tmp_path / "log", "--multi-model") as server:
        tab.open(f"{server.url}/")
        wait_for(lambda: "none is loaded yet" in tab.text("#about"), "the sentence")
        assert f"{server.url}/models/NAME/invoke" in tab.text("#curl")
        wanted = {"model_name": "big dogs", "url": str(bundle.folder)}
        assert httpx.post(f"{server.url}/models", json=wanted, timeout=20).status_code == 200
        tab.open(f"{server.url}/")
        wait_for(lambda: tab.count("#addresses li") == 1, "the addresses")
        address = tab.text("#addresses li")
        assert address in tab.text("#curl")
        asked = httpx.post(address, content=images.jpeg(), headers={"Content-Type": "image/jpeg"})
        assert asked.status_code == 200
        assert not tab.evaluate("document.querySelector('#drop').checkVisibility()")
        assert not tab.evaluate("document.querySelector('#model').checkVisibility()")
