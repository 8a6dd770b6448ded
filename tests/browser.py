"""Drive the explorer in a real browser: ``make browser``, where chromium and its driver are installed.

Not collected with the tests, which run the page's scripts in a JavaScript engine and need no browser. Any failed check
or any message on the browser's console ends with an error. With ``--shots FOLDER`` pictures of the page are written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

COMMAND = ["explore", "scene:0/27", "gqa/count", "--budgets", "192,128,64,32,16"]


def opened(page: Path, driver: str) -> Any:
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000", "--hide-scrollbars"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.get(page.as_uri())
    wait(lambda: browser.execute_script("return document.body.dataset.ready === 'yes'"), "the page opens")
    return browser


def wait(condition: Any, what: str, seconds: float = 20) -> None:
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


def drive(browser: Any, shots: Path | None) -> None:
    def shoot(name: str) -> None:
        if shots is not None:
            browser.save_screenshot(str(shots / f"{name}.png"))

    def text(name: str) -> str:
        return browser.find_element(By.ID, name).text

    card = "#strategies .card canvas"
    slider = browser.find_element(By.ID, "budget")
    slider.send_keys(Keys.HOME)
    wait(lambda: text("shown-budget") == "1 of 576", "Home puts the slider at one token")
    few = pixels(browser, card)
    slider.send_keys(Keys.END)
    wait(lambda: text("shown-budget") == "576 of 576", "End puts it at all")
    wait(lambda: pixels(browser, card) != few, "the slider changes what is drawn")
    slider.send_keys(Keys.ARROW_LEFT)
    wait(lambda: text("shown-budget") == "575 of 576", "arrow keys move it by one")
    browser.find_element(By.CSS_SELECTOR, '#marked [data-keep="64"]').click()
    wait(lambda: text("shown-budget") == "64 of 576", "a marked budget is a click away")
    kept = browser.find_element(By.CSS_SELECTOR, ".card").get_attribute("data-kept")
    wait(lambda: kept == "64", "as many patches are kept")
    plain = pixels(browser, "#picture")
    shoot("explorer-light")
    word = next(one for one in browser.find_elements(By.CSS_SELECTOR, "[data-word]") if "dogs" in one.text)
    ActionChains(browser).move_to_element(word).perform()
    wait(lambda: "dogs" in text("legend") and pixels(browser, "#picture") != plain, "pointing at a word shows its PMI")
    shoot("explorer-word")
    picture = browser.find_element(By.ID, "picture")
    ActionChains(browser).move_to_element_with_offset(picture, 40, -20).perform()
    wait(lambda: "Speaks to" in text("details"), "pointing at a patch shows its words")
    ActionChains(browser).click().move_to_element(browser.find_element(By.ID, "name")).perform()
    wait(lambda: "Speaks to" in text("details"), "a click holds it")
    browser.find_element(By.ID, "theme").click()
    wait(lambda: browser.execute_script("return document.documentElement.dataset.theme") == "dark", "dark")
    browser.execute_script(
        "const h = document.getElementById('heat'); h.value = 'redundancy'; h.dispatchEvent(new Event('change'))"
    )
    wait(lambda: "self-PMI" in browser.find_element(By.CSS_SELECTOR, ".card").text, "redundancy names its measure")
    shoot("explorer-dark")
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    wait(lambda: "Point at" in text("details"), "Escape lets go")
    browser.find_element(By.ID, "play").click()
    wait(lambda: int(text("shown-budget").split()[0]) > 64, "replay goes on")
    browser.find_element(By.ID, "play").click()
    size = {"width": 420, "height": 1500, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide = "return document.documentElement.scrollWidth"
    wait(lambda: browser.execute_script(wide) <= 420, "nothing sticks out at 420 pixels")
    shoot("explorer-narrow")
    wait(lambda: browser.get_log("browser") == [], "the console is silent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver", default="chromedriver")
    parser.add_argument("--page", type=Path, help="a page written before")
    parser.add_argument("--shots", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = given.page or Path(folder) / "explore.html"
        if given.page is None:
            subprocess.run([sys.executable, "-m", "tokenprune", *COMMAND, "--out", str(page)], check=True)
        browser = opened(page.resolve(), given.driver)
        try:
            drive(browser, given.shots)
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
