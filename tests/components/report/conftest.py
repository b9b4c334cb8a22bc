from collections.abc import Iterator

import pytest

from tests.support import chromium
from tests.support.chromium import Browser, Tab


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = chromium.find()
    if executable is None:
        pytest.skip("there is no Chromium: install it (Debian: apt-get install chromium)")
    with chromium.running(executable, tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    """A new page of a real browser."""
    opened = browser.new_tab()
    yield opened
    opened.close()
