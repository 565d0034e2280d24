"""A headless Chromium for the tests of the page; `make test-browser` sets it up.

Where playwright or chromium is missing these tests are skipped, but with BROWSER_REQUIRED=1, which
`make test-browser` sets, they fail.
"""

import os
import pathlib
import shutil

import pytest

REQUIRED = os.environ.get("BROWSER_REQUIRED") == "1"


def missing(what: str):
  (pytest.fail if REQUIRED else pytest.skip)(f"{what} is missing: make test-browser installs it")


@pytest.fixture(scope="session")
def browser():
  """Debian's Chromium; nothing is downloaded."""
  executable = shutil.which("chromium") or shutil.which("chromium-browser")
  if executable is None:
    missing("chromium")
  try:
    from playwright import sync_api
  except ImportError:
    missing("playwright")
  with sync_api.sync_playwright() as playwright:
    # Chromium refuses its sandbox to root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    chromium = playwright.chromium.launch(executable_path=executable, args=options)
    yield chromium
    chromium.close()


@pytest.fixture(scope="session")
def address(tmp_path_factory) -> str:
  """The page as a user has it: one file."""
  from experiments.paper import explorer

  file: pathlib.Path = tmp_path_factory.mktemp("explorer") / "explorer.html"
  file.write_text(explorer.build(), encoding="utf-8")
  return file.as_uri()


@pytest.fixture(scope="module")
def numbers(browser, address):
  """One page for all tests that only compute; complaints fail the last of them."""
  complaints = []
  page = loaded(browser.new_page(), address, complaints)
  yield page
  page.close()
  assert not complaints


def loaded(page, address: str, complaints: list[str]):
  """`page` with the explorer in it, whose complaints are told as `open_page` says."""
  def answer(route):
    if route.request.url == address:
      route.continue_()
    else:
      complaints.append(f"request: {route.request.url}")
      route.abort()

  page.route("**/*", answer)
  page.on("console", lambda message: message.type in ("warning", "error")
          and complaints.append(f"console {message.type}: {message.text}"))
  page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
  page.on("websocket", lambda socket: complaints.append(f"socket: {socket.url}"))
  page.goto(address)
  assert page.evaluate("window.langevin !== undefined")
  page.complaints = complaints
  return page


@pytest.fixture
def open_page(browser, address):
  """open_page(width, height, **context) → a loaded page; complaints fail the test at its end.

  A complaint is a warning or error on the console, an exception, or a request for anything but the
  page itself, which is refused.
  """
  contexts, complaints = [], []

  def open_(width: int = 920, height: int = 700, **options):
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    contexts.append(context)
    return loaded(context.new_page(), address, complaints)

  yield open_
  for context in contexts:
    context.close()
  assert not complaints
