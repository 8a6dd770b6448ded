"""Drive the pages in a real browser: ``make browser``, where chromium and its driver are installed.

Not collected with the tests, which run the pages' scripts in a JavaScript engine and need no browser. Any failed check
or any message on the browser's console ends with an error. With ``--shots FOLDER`` pictures of the pages are written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.browser import explorer, report
from tests.browser.chromium import opened


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser", description=__doc__)
    parser.add_argument("--driver", default="chromedriver")
    parser.add_argument("--shots", type=Path)
    parser.add_argument("--only", choices=["explorer", "report"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        pages = {
            "explorer": (explorer, made / "explore.html", made / "explore.html"),
            "report": (report, made / "compared", made / "compared" / "report.html"),
        }
        for name, (what, out, page) in pages.items():
            if given.only in (None, name):
                subprocess.run([sys.executable, "-m", "tokenprune", *what.COMMAND, "--out", str(out)], check=True)
                browser = opened(page.resolve(), given.driver)
                try:
                    what.drive(browser, given.shots)
                finally:
                    browser.quit()


if __name__ == "__main__":
    main()
