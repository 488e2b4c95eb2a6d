"""How long does a visitor of `diffcore demo` wait: from the click to the first picture, and to the finished samples?

    python tests/benchmarks/demo.py RUN [--n 16] [--clicks 9]

It needs Chromium and the package playwright, and prints the medians.
"""

import argparse
import contextlib
import re
import shutil
import statistics
import sys
import time
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

import diffcore as dc

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.demo.served import served


def main() -> None:
    """Click, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--clicks", type=int, default=9)
    options = parser.parse_args()
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    times: dict[str, list[float]] = {"first": [], "last": []}
    with served([dc.load(options.run)]) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector(".panel")
        page.fill("#n", str(options.n))
        tile = page.frame_locator(".out iframe").locator(".sample > *").first
        for click in range(options.clicks + 1):
            page.fill("#seed", str(click))
            before = tile.inner_html() + (tile.get_attribute("src") or "") if click else None
            started = time.perf_counter()
            page.click("#draw")
            while True:
                with contextlib.suppress(Exception):
                    if tile.inner_html(timeout=50) + (tile.get_attribute("src") or "") != before:
                        break
            first = time.perf_counter() - started
            page.locator(".status").filter(has_text=re.compile(r"\d+ samples?")).wait_for()
            if click:  # the first one prepares the network
                times["first"].append(first)
                times["last"].append(time.perf_counter() - started)
        browser.close()
    found = {name: round(statistics.median(values), 3) for name, values in times.items()}
    print(f"medians of {options.clicks} clicks, {options.n} samples, {torch.get_num_threads()} threads: {found}")


if __name__ == "__main__":
    main()
