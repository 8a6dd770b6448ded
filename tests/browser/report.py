"""The report of a comparison in a browser: chart, legend, table, lost answers, dark, narrow, printed."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import narrow, shoot, wait

__all__ = ["COMMAND", "drive"]

COMMAND = ["compare", "--limit", "17", "--budgets", "64,16", "--strategies", "mi-pruner,divprune,fastv,visionzip"]


def drive(browser: Any, shots: Path | None) -> None:
    """Everything that the page promises."""

    def choose(name: str, value: str) -> None:
        browser.execute_script(
            "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
            "s.dispatchEvent(new Event('change'))",
            name,
            value,
        )

    def drawn() -> list[str]:
        return [one.get_attribute("data-name") for one in browser.find_elements(By.CSS_SELECTOR, "#plot .series")]

    def rows() -> list[str]:
        shown = browser.find_elements(By.CSS_SELECTOR, "#table tbody tr:not([hidden]) td:first-child")
        return [cell.text for cell in shown]

    everything = drawn()
    wait(lambda: {"mi-pruner", "divprune", "fastv", "full", "wrong image"} <= set(everything), "every row is drawn")
    bars = len(browser.find_elements(By.CSS_SELECTOR, "#plot .bar"))
    wait(lambda: bars >= 6, f"{bars} intervals are drawn")
    colours = {
        browser.execute_script("return arguments[0].getAttribute('stroke')", line)
        for line in browser.find_elements(By.CSS_SELECTOR, "#plot .line")
    }
    wait(lambda: len(colours) == len(everything), "every line has a colour of its own")
    shoot(browser, shots, "report-light")

    mark = browser.find_element(By.CSS_SELECTOR, '#plot [data-name="mi-pruner"] circle')
    ActionChains(browser).move_to_element(mark).perform()
    tip = browser.find_element(By.ID, "tip")
    wait(lambda: tip.text.startswith("mi-pruner") and "n = 17" in tip.text, "pointing at a mark tells its numbers")
    wait(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#plot .faded")) == len(everything) - 1, "others fade")
    choose("axis", "gflops")
    wait(lambda: "GFLOPs" in browser.find_element(By.ID, "plot").text, "the cost can be chosen")
    choose("part", "1")
    wait(
        lambda: "scenes-gqa" in browser.find_element(By.CSS_SELECTOR, "#plot svg").get_attribute("aria-label"), "a part"
    )
    choose("part", "0")
    choose("intervals", "none")
    wait(lambda: not browser.find_elements(By.CSS_SELECTOR, "#plot .bar"), "intervals can be left out")
    choose("intervals", "all")
    browser.find_element(By.ID, "front").click()
    wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#plot .front"), "the front is drawn")

    before = len(rows())
    browser.find_element(By.CSS_SELECTOR, '#legend [data-name="divprune"]').click()
    wait(lambda: drawn() == ["divprune"] and set(rows()) == {"divprune"}, "the legend isolates")
    browser.find_element(By.CSS_SELECTOR, '#legend [data-name="fastv"]').send_keys(Keys.ENTER)
    wait(lambda: set(drawn()) == {"divprune", "fastv"}, "a second is added by keyboard")
    shoot(browser, shots, "report-isolated")
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    wait(lambda: drawn() and len(drawn()) == len(everything) and len(rows()) == before, "Escape shows all again")

    heads = {head.text.strip(): head for head in browser.find_elements(By.CSS_SELECTOR, "#table th button")}
    heads["strategy"].click()
    wait(lambda: rows() == sorted(rows()), "a column sorts")
    heads["strategy"].click()
    wait(lambda: rows() == sorted(rows(), reverse=True), "and the other way round")
    heads["strategy"].click()
    wait(lambda: rows()[0] == "full", "and not at all")
    box = browser.find_element(By.ID, "name-filter")
    box.send_keys("prune")
    wait(lambda: set(rows()) == {"mi-pruner", "divprune"}, "a part of a name filters")
    choose("keep-filter", "16")
    wait(lambda: len(rows()) == 2 and "2 of" in browser.find_element(By.ID, "count").text, "so does a budget")
    choose("keep-filter", "")
    box.send_keys(Keys.BACKSPACE * 5)
    wait(lambda: len(rows()) == before, "and all is there again")

    choose("lost-strategy", "random")
    wait(lambda: "random at" in browser.find_element(By.ID, "lost-count").text, "lost answers are counted")
    listed = browser.find_elements(By.CSS_SELECTOR, "#lost-table tbody tr")
    wait(lambda: len(listed) > 0, "and some are shown")
    wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#examples figure img"), "examples are drawn")
    link = browser.find_element(By.CSS_SELECTOR, '#table a[href="#about-mi-pruner"]')
    browser.execute_script("arguments[0].click()", link)
    wait(lambda: browser.find_element(By.ID, "about-mi-pruner").is_displayed(), "a row leads to what it is")
    browser.execute_script("location.hash = ''; scrollTo(0, 0)")

    browser.find_element(By.ID, "theme").click()
    wait(lambda: browser.execute_script("return document.documentElement.dataset.theme") == "dark", "dark")
    shoot(browser, shots, "report-dark")
    told = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})
    printed = base64.b64decode(told["data"])
    if shots is not None:
        (shots / "report.pdf").write_bytes(printed)
    wait(lambda: printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") < 20, "it prints on few pages")
    narrow(browser)
    shoot(browser, shots, "report-narrow")
    wait(lambda: browser.get_log("browser") == [], "the console is silent")
