"""Looks at the status page as people do, in headless Chromium: at both widths, in both themes, with axe's rules, with
and without scripts. Says what is wrong on standard error, with exit code 1.

    look.py OUT NAME MOST_HEIGHT LOOKS

LOOKS is a JSON object: `texts` that the page shows, `rows` of apps, and `then`, which further looks are taken:
`open`, `choose`, `plain`, `gone` (the process of `pid` stops for a while).
"""

import json
import os
import pathlib
import signal
import sys

from axe_core_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

URL = "http://127.0.0.1:8179/"
WIDTHS = {390: 844, 1280: 800}
# Time for ten refreshes, two seconds apart, on a busy machine.
PATIENCE = 90_000


class Wrong(Exception):
    pass


def expect(holds, what):
    if not holds:
        raise Wrong(what)


def begin(browser, width=1280, scheme="light", scripts=True):
    context = browser.new_context(
        viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme, java_script_enabled=scripts
    )
    page = context.new_page()
    page.complaints = []
    # Among them what the policy forbids.
    page.on("console", lambda said: page.complaints.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda asked: expect_own(page, asked.url))
    page.goto(URL)
    return page


def expect_own(page, url):
    if not url.startswith(URL):
        page.complaints.append(f"asks {url}")


def end(page):
    expect(not page.complaints, page.complaints)
    page.context.close()


def is_as_wide_as_its_window(page, width):
    wide = page.evaluate("document.documentElement.scrollWidth")
    expect(wide <= width, f"{wide} px wide at {width}")


def breaks_no_rule(page):
    found = Axe().run(page)["violations"]
    short = [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found]
    expect(not short, f"axe: {json.dumps(short, indent=1)}")


def every_size(browser, out, name, height, looks):
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            page = begin(browser, width, scheme)
            shown = page.inner_text("main")
            for text in looks["texts"]:
                expect(text in shown, f"{text} is not in {shown[:2000]}")
            rows = page.locator("#apps > li[data-key]").count()
            expect(rows == looks["rows"], f"{rows} rows")
            page.screenshot(path=out / f"{name}-{width}-{scheme}.png", full_page=True)
            is_as_wide_as_its_window(page, width)
            breaks_no_rule(page)
            high = page.evaluate("document.documentElement.scrollHeight")
            expect(high <= height[str(width)], f"{high} px high at {width}")
            page.locator("#apps summary").first.click()
            page.locator("#apps details").nth(rows // 2).evaluate("d => d.open = true")
            is_as_wide_as_its_window(page, width)
            breaks_no_rule(page)
            page.screenshot(path=out / f"{name}-{width}-{scheme}-open.png", full_page=rows < 60)
            end(page)


def what_is_open_stays(browser, out, looks):
    page = begin(browser)
    app = page.locator("#apps > li[data-key]").last
    key = app.get_attribute("data-key")
    if not app.locator("details").evaluate("d => d.open"):
        app.locator("summary").click()
    # The very text node, and the very element that has the focus.
    page.evaluate(
        """key => {
            const app = [...document.querySelectorAll("#apps > li")].find((li) => li.dataset.key === key);
            window.app = app, window.text = app.querySelector(".detail code").firstChild;
            getSelection().setBaseAndExtent(text, 1, text, 6);
        }""",
        key,
    )
    chosen = page.evaluate("String(getSelection())")
    expect(len(chosen) == 5, chosen)
    clock = page.inner_text("#clock")
    for _ in range(10):
        with page.expect_response(lambda answer: answer.url.startswith(URL), timeout=PATIENCE) as answer:
            pass
        expect(answer.value.ok, answer.value.status)
        answer.value.finished()
    page.wait_for_function("before => document.querySelector('#clock').innerText !== before", arg=clock)
    expect(page.evaluate("app.isConnected && app.querySelector('details').open"), f"{key} did not stay open")
    expect(page.evaluate("text.isConnected"), "what was selected was replaced")
    expect(page.evaluate("String(getSelection())") == chosen, "the selection is gone")
    focused = page.evaluate("document.activeElement.closest('li')?.dataset.key")
    expect(focused in (key, None), focused)
    live = page.evaluate("[...document.querySelectorAll('[role=status], [aria-live]')].map(e => e.id)")
    expect(live == ["verdict"], f"{live} are read out")
    end(page)


def counts_and_search_choose(browser, looks):
    page = begin(browser)
    link = page.locator("nav a", has_text="down").first
    count = int(link.locator(".count").inner_text())
    link.click()
    shown = min(count, 100)
    page.wait_for_function("n => document.querySelectorAll('#apps > li[data-key]').length === n", arg=shown)
    expect(page.url.endswith("?state=down"), page.url)
    expect(page.locator("nav a[aria-current]").inner_text().startswith("down"), "it is not marked")
    page.locator("nav a").first.click()
    page.fill("#q", looks["search"])
    page.wait_for_function("() => document.querySelectorAll('#apps > li[data-key]').length === 1")
    expect(looks["search"] in page.locator("#apps bdi").first.inner_text(), "another one was found")
    # A refresh takes nothing away from who is typing.
    page.wait_for_timeout(3000)
    expect(page.input_value("#q") == looks["search"], page.input_value("#q"))
    expect(page.evaluate("document.activeElement.id") == "q", "the focus is gone")
    page.reload()
    expect(page.input_value("#q") == looks["search"], "a reload forgets the search")
    end(page)


def without_scripts(browser, out, name, looks):
    page = begin(browser, scripts=False)
    shown = page.inner_text("main")
    for text in looks["texts"]:
        expect(text in shown, f"without scripts {text} is not in {shown[:2000]}")
    expect("Without scripts" in shown, "it does not say that it stays as it is")
    expect(not page.locator("#q").is_visible(), "a search that cannot be made")
    app = page.locator("#apps > li[data-key]").last
    if looks["rows"] > 1:
        app.locator("summary").click()
    expect(app.locator(".detail").is_visible(), "what is closed cannot be opened")
    page.screenshot(path=out / f"{name}-plain.png")
    if looks["rows"] > 1:
        link = page.locator("nav a").nth(1)
        count = int(link.locator(".count").inner_text())
        link.click()
        rows = page.locator("#apps > li[data-key]").count()
        expect(rows == min(count, 100), f"{rows} of {count} are chosen")
    end(page)


def when_nobody_answers(browser, out, name, pid):
    page = begin(browser)
    os.kill(pid, signal.SIGSTOP)
    try:
        page.wait_for_function("() => document.title.startsWith('?')", timeout=PATIENCE)
        said = page.inner_text("#verdict")
        expect("No answer" in said, said)
        expect(page.locator("#apps > li[data-key]").count() > 0, "what was known is gone")
        breaks_no_rule(page)
        page.screenshot(path=out / f"{name}-gone.png")
    finally:
        os.kill(pid, signal.SIGCONT)
    page.wait_for_function("() => !document.title.startsWith('?')", timeout=PATIENCE)
    said = page.inner_text("#verdict")
    expect("No answer" not in said, said)
    page.context.close()


def main():
    out, name, height, looks = pathlib.Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        every_size(browser, out, name, height, looks)
        then = looks["then"]
        if "open" in then:
            what_is_open_stays(browser, out, looks)
        if "choose" in then:
            counts_and_search_choose(browser, looks)
        if "plain" in then:
            without_scripts(browser, out, name, looks)
        if "gone" in then:
            when_nobody_answers(browser, out, name, looks["pid"])
        browser.close()


try:
    main()
except Wrong as wrong:
    sys.exit(f"look.py: {wrong}")
