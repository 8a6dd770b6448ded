"""The explorer in a browser: slider, words, patches, keys, dark, narrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import narrow, pixels, shoot, wait

__all__ = ["COMMAND", "drive"]

COMMAND = ["explore", "scene:0/27", "gqa/count", "--budgets", "192,128,64,32,16"]


def drive(browser: Any, shots: Path | None) -> None:
    """Everything that the page promises."""

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
    shoot(browser, shots, "explorer-light")
    word = next(one for one in browser.find_elements(By.CSS_SELECTOR, "[data-word]") if "dogs" in one.text)
    ActionChains(browser).move_to_element(word).perform()
    wait(lambda: "dogs" in text("legend") and pixels(browser, "#picture") != plain, "pointing at a word shows its PMI")
    shoot(browser, shots, "explorer-word")
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
    shoot(browser, shots, "explorer-dark")
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    wait(lambda: "Point at" in text("details"), "Escape lets go")
    browser.find_element(By.ID, "play").click()
    wait(lambda: int(text("shown-budget").split()[0]) > 64, "replay goes on")
    browser.find_element(By.ID, "play").click()
    narrow(browser)
    shoot(browser, shots, "explorer-narrow")
    wait(lambda: browser.get_log("browser") == [], "the console is silent")
