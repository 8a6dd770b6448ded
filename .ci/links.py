"""Ask every address on the pages whether it answers: ``python .ci/links.py``. Runs nightly, since it needs a network.

Links between pages and to headings are tested offline (``tests/core/test_site.py``). An address that does not answer is
asked again twice; what then fails is listed, and the exit code is 1. Codes that say "not for programs" pass (403, 429,
999).
"""

from __future__ import annotations

import re
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("https://tokenprune.github.io/", "https://github.com/tokenprune/")
"""Where this very version will be; it may not be there yet."""


def addresses(text: str) -> set[str]:
    """What a page links to, outside of code blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\((https?://[^)\s]+)\)|<(https?://[^>\s]+)>", prose)
    return {one or other for one, other in found if not (one or other).startswith(OURS)}


def fault(url: str, tries: int = 3) -> str:
    """Why an address does not answer; empty where it does."""
    why = ""
    for attempt in range(tries):
        time.sleep(5 * attempt)
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (link check)"})
            with urllib.request.urlopen(request, timeout=30):
                return ""
        except urllib.error.HTTPError as error:
            if error.code in (403, 429, 999):
                return ""
            why = str(error)
        except (OSError, ValueError) as error:
            why = str(error)
    return why


def main() -> int:
    """List addresses that do not answer."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    urls = sorted({url for page in pages for url in addresses(page.read_text(encoding="utf-8"))})
    with ThreadPoolExecutor(8) as pool:
        faults = {url: why for url, why in zip(urls, pool.map(fault, urls), strict=True) if why}
    for url, why in faults.items():
        print(f"{url}: {why}")
    print(f"{len(urls) - len(faults)} of {len(urls)} addresses answer")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
