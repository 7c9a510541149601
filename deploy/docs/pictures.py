"""The documentation's pictures of the console, in Chromium on a desktop: light, 1280 points wide.

Usage, from the repository's root, after a demo that is left running:
    make demo KEEP=1
    python -m deploy.docs.pictures http://127.0.0.1:8077 docs/images
"""

from __future__ import annotations

import argparse
import base64
import shutil
from collections.abc import Mapping
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

WIDTH = 1280
SHOWN: Mapping[str, tuple[str, int]] = {
    "console-overview": ("/", 1000),
    "console-decision": ("/adapters/1/decision", 1300),
    "console-reports": ("/reports?rows=25", 900),
}
"""Page and height of each picture."""


def take(driver: webdriver.Chrome, address: str, folder: Path) -> None:
    """Write a PNG file for each name in `SHOWN`."""
    media = [{"name": "prefers-color-scheme", "value": "light"}, {"name": "prefers-reduced-motion", "value": "reduce"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    for name, (page, height) in SHOWN.items():
        screen = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        driver.get(address + page)
        picture = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        (folder / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="of the console")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        take(driver, given.address.rstrip("/"), given.folder)
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
