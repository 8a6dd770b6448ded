"""Chromium without a window, and how to wait for what a page does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from selenium import webdriver

__all__ = ["narrow", "opened", "pixels", "shoot", "wait"]


def opened(page: Path, driver: str) -> Any:
    """A page that has drawn itself."""
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000", "--hide-scrollbars"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.get(page.as_uri())
    wait(lambda: browser.execute_script("return document.body.dataset.ready === 'yes'"), f"{page.name} opens")
    return browser


def wait(condition: Any, what: str, seconds: float = 120) -> None:
    """End the program unless a condition comes true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"failed: {what}")
        time.sleep(0.05)
    print("ok:", what)


def pixels(browser: Any, selector: str) -> list[int]:
    """A sample of a canvas's pixels."""
    return browser.execute_script(
        "const c = document.querySelector(arguments[0]);"
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 397 === 0)]",
        selector,
    )


def narrow(browser: Any) -> None:
    """The width of a telephone."""
    size = {"width": 420, "height": 1500, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide = "return document.documentElement.scrollWidth"
    wait(lambda: browser.execute_script(wide) <= 420, "nothing sticks out at 420 pixels")


def shoot(browser: Any, shots: Path | None, name: str) -> None:
    """A picture of the page, where pictures are wanted."""
    if shots is not None:
        browser.save_screenshot(str(shots / f"{name}.png"))
