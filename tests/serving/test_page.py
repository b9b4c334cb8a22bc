"""The page at `/`, in a real browser, of a real server."""

from pathlib import Path

import httpx
import pytest

from serving.bundle import Bundle
from tests.support import images
from tests.support.bundles import LABELS, reseal
from tests.support.chromium import Tab
from tests.support.servers import Server, serving, wait_for


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


def test_it_fits_a_telephone(tab: Tab, server: Server, tmp_path: Path) -> None:
    picture = tmp_path / ("long name " * 20 + ".jpg")
    picture.write_bytes(images.jpeg())
    ask(opened(tab, server, width=360), picture)
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_keyboard_reaches_everything_and_everything_has_a_name(tab: Tab, server: Server) -> None:
    opened(tab, server)
    reached = []
    for _ in range(6):
        tab.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"file", "copy", "SUMMARY"} <= set(reached)
    nodes = tab.send("Accessibility.getFullAXTree")["nodes"]
    nameless = [
        node["role"]["value"]
        for node in nodes
        if node.get("role", {}).get("value") in {"button", "form", "progressbar", "DisclosureTriangle"}
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
    with serving(own_bundle, tmp_path / "log") as server:
        opened(tab, server.wait_until_ready())
        assert tab.text("#all li") == hostile
        assert tab.count("#all img") == 0
