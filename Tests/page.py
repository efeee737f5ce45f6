#!/usr/bin/env python3
"""Uses the chat page of `apus serve` in headless Chromium: asks, reads the stream, looks at the load.

    apt-get install chromium; pip install playwright
    APUS_TEST_MODEL=model.gguf Tests/page.py [SCREENSHOT.png]
"""

import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parent / "Commands"))

from serving import Server


def main():
    problems = []
    with Server() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 700})
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: request.url.startswith((server.address, "data:")) or problems.append(request.url))
        page.goto(server.address)
        expect(page.locator("#model")).to_have_text(server.name)
        page.fill("#temperature", "0")
        page.fill("#text", "What is the capital of France?")
        page.press("#text", "Enter")
        expect(page.locator(".message.assistant span")).to_contain_text("Paris", timeout=60_000)
        expect(page.locator(".message.assistant small")).to_contain_text("tokens/s", timeout=60_000)
        expect(page.locator("#generated")).not_to_have_text("0")
        # An answer can be stopped, and the next one follows.
        page.fill("#max", "3000")
        page.fill("#text", "Tell a very long story about <b>a swift</b>.")
        page.click("#send")
        expect(page.locator(".message.assistant span").nth(1)).not_to_be_empty(timeout=60_000)
        expect(page.locator("#running")).to_have_text("1")
        page.click("#stop")
        expect(page.locator("#running")).to_have_text("0", timeout=10_000)
        expect(page.locator(".message.user").nth(1)).to_contain_text("<b>a swift</b>")
        page.fill("#temperature", "7")
        page.fill("#text", "Too hot?")
        page.click("#send")
        expect(page.locator(".message.error")).to_contain_text("temperature")
        problems[:] = [problem for problem in problems if "400 (Bad Request)" not in problem]
        if len(sys.argv) > 1:
            page.screenshot(path=sys.argv[1])
        page.click("#clear")
        expect(page.locator(".message")).to_have_count(0)
        browser.close()
    if problems:
        sys.exit("\n".join(problems))
    print("the page works")


if __name__ == "__main__":
    main()
