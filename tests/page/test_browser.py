"""The page in a real browser: every view opened, used, and compared with what the state API says."""

import re
import shutil
from pathlib import Path

import pytest
from heads import command
from page.conftest import LINE, eventually
from ray_rs.scripts._dashboard import url_of
from ray_rs.util import state
from under_test import ray

pytestmark = pytest.mark.ray_rs_only("Ray's dashboard is another program")

# What each view looks like, for people.
PICTURES = Path(__file__).parents[2] / "target" / "page"
VIEWS = ("overview", "tasks", "timeline", "actors", "workers", "objects", "groups", "jobs", "logs")


@pytest.fixture(scope="module")
def browser(head):
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("playwright is not installed: pip install playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no browser: apt install chromium")
    with sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class Seen:
    """A window, and all that it complained of."""

    def __init__(self, context, url):
        self.complaints = []
        self.elsewhere = []
        self.page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.on("console", self._says)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        here = url.split("/#")[0] + "/"
        self.page.on("request", lambda request: request.url.startswith(here) or self.elsewhere.append(request.url))
        self.page.goto(url)

    def _says(self, message):
        # Refusals of the policy are said in this way, too.
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def view(self, name):
        self.page.click(f"nav a[href='#/{name}']")
        self.page.wait_for_selector(f"main[data-view={name}]")

    def rows(self, table):
        """Texts of the rows of a table that is there, by its title's beginning."""
        region = f"[role=region][aria-label^='{table}']"
        self.page.wait_for_selector(f"{region} tbody tr[data-key]")
        return self.page.eval_on_selector_all(
            f"{region} tbody tr[data-key]", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
        )

    def until(self, script):
        """Waits until a script says yes. Playwright's own waiting makes code of text, which is forbidden."""
        return eventually(lambda: self.page.evaluate(script), script)

    def answer(self):
        """What a button of the dialog has brought."""
        self.page.wait_for_selector("#dialog pre, #dialog .trouble")
        return self.page.inner_text("#dialog pre, #dialog .trouble")


@pytest.fixture
def window(browser, head, busy):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    seen = Seen(context, url_of(head.directory))
    seen.page.wait_for_selector("main[data-view=overview]")
    yield seen
    context.close()
    assert (seen.complaints, seen.elsewhere) == ([], [])


def test_who_has_no_key_is_asked_for_it(browser, head):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://{head.web}/")
    page.fill("#key", "wrong")
    page.click("main button")
    page.wait_for_selector("[role=alert]:not(:empty)")
    page.fill("#key", head.key)
    page.click("main button")
    page.wait_for_selector("main[data-view=overview]")
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("document.cookie") == ""
    context.close()


def test_the_key_leaves_the_address(window):
    assert "key" not in window.page.url
    window.page.reload()
    window.page.wait_for_selector("main[data-view=overview]")


def test_overview(window):
    window.page.wait_for_selector("#nodes .card")
    (node,) = state.list_nodes()
    text = window.page.inner_text("#nodes")
    assert node.node_id in text
    assert "1 of 2" in text
    assert "'CPU': 64" in window.page.inner_text("#waiting")
    assert "too_large" in window.page.inner_text("#waiting")
    window.until("document.getElementById('live').textContent === 'live'")


def test_tasks(window):
    window.view("tasks")
    told = state.summarize_tasks()["cluster"]["summary"]
    shown = {row[0]: row for row in window.rows("Tasks by name")}
    for name, row in told.items():
        counts = row["state_counts"]
        unfinished = sum(count for word, count in counts.items() if word not in ("FINISHED", "FAILED"))
        cells = [str(unfinished), str(counts.get("FINISHED", 0)), str(counts.get("FAILED", 0))]
        assert shown[name][1:4] == cells, name
    total = len(state.list_tasks(limit=10_000))
    caption = "[role=region][aria-label^='Tasks, the latest'] caption"
    window.until(f"document.querySelector(\"{caption}\").textContent.endsWith(': {total}')")
    # To the very end of them, which is only then asked for.
    window.page.eval_on_selector("[aria-label^='Tasks, the latest']", "box => box.scrollTop = box.scrollHeight")
    window.until(
        f"document.querySelector(\"[aria-label^='Tasks, the latest'] tr[aria-rowindex='{total + 1}'] button\")"
    )
    window.page.select_option("main select", "FAILED")
    window.until(f"document.querySelector(\"{caption}\").textContent.endsWith(': 1')")
    (row,) = window.rows("Tasks, the latest")
    assert row[1].endswith("broken")
    assert "broken on purpose" in row[6]
    window.page.select_option("main select", "")
    window.page.click("[aria-label='Tasks by name'] button:has-text('too_large')")
    window.until(f"document.querySelector(\"{caption}\").textContent.endsWith(': 1')")
    window.page.click("[aria-label^='Tasks, the latest'] tbody button")
    window.page.click("#dialog button:has-text('Why?')")
    assert "64" in window.answer()
    window.page.keyboard.press("Escape")
    assert not window.page.is_visible("#dialog")


def test_the_stack_of_what_runs(window):
    window.view("tasks")
    window.page.select_option("main select", "RUNNING")
    window.page.click("[aria-label^='Tasks, the latest'] tbody tr:has-text('waits_at_the_gate') button")
    window.page.click("#dialog button:has-text('Stack')")
    assert "waits_at_the_gate" in window.answer()
    window.page.click("#dialog button:has-text('Log')")
    window.page.wait_for_selector("main[data-view=logs] #log")
    window.until(f"document.getElementById('log').textContent.includes('{LINE}')")


def test_the_flame_graph_of_what_runs(window):
    window.view("tasks")
    window.page.select_option("main select", "RUNNING")
    window.page.click("[aria-label^='Tasks, the latest'] tbody tr:has-text('waits_at_the_gate') button")
    window.page.click("#dialog button:has-text('Flame graph')")
    window.page.wait_for_selector(".flame button:has-text('waits_at_the_gate')")
    said = "#dialog p[aria-live]"
    assert re.match(r"process \d+: 100.0 %, (\d+) of \1 samples", window.page.inner_text(said))
    # One is as wide as its callers when pressed, and as before when pressed again.
    wide = """() => { const [a, b] = [...document.querySelectorAll('.flame button')].filter(
        each => each === document.activeElement || each.style.top === '0px').map(each => each.offsetWidth);
        return [a, b]; }"""
    window.page.click(".flame button:has-text('waits_at_the_gate')")
    assert "waits_at_the_gate" in window.page.inner_text(said)
    window.page.screenshot(path=PICTURES / "flame-graph.png")
    whole, part = window.page.evaluate(wide)
    assert whole == part
    window.page.keyboard.press("ArrowUp")
    assert "waits_at_the_gate" not in window.page.inner_text(said)
    window.page.keyboard.press("Home")
    assert window.page.inner_text(said).startswith("process ")
    for _ in range(40):
        window.page.keyboard.press("ArrowDown")
        if "waits_at_the_gate" in window.page.inner_text(said):
            break
    assert "waits_at_the_gate" in window.page.inner_text(said)
    window.page.keyboard.press("Escape")
    assert not window.page.is_visible("#dialog")


def test_timeline(window):
    window.view("timeline")
    window.until("/\\d+ tasks ended on/.test(document.getElementById('readout').textContent)")
    text = window.page.inner_text("#readout")
    ended = len([row for row in state.list_tasks(limit=10_000, detail=True) if row.end_time_ms and row.worker_pid])
    assert int(re.match(r"([\d,]+) tasks", text)[1].replace(",", "")) <= ended
    painted = """canvas => new Set(new Uint32Array(
        canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"""
    eventually(lambda: window.page.eval_on_selector(".chart canvas", painted) > 5, "colours in the chart")
    assert "quick" in window.page.inner_text(".legend")
    window.page.focus(".chart canvas")
    window.page.keyboard.press("ArrowDown")
    window.until("/^Worker \\d+: busy/.test(document.getElementById('readout').textContent)")
    for key in ("+", "-", "ArrowLeft", "ArrowRight"):
        window.page.keyboard.press(key)
    assert window.page.get_attribute("button:has-text('Everything')", "aria-pressed") == "false"
    window.page.keyboard.press("Home")
    assert window.page.get_attribute("button:has-text('Everything')", "aria-pressed") == "true"
    window.until("/tasks ended on/.test(document.getElementById('readout').textContent)")


def test_actors(window, busy):
    window.view("actors")
    rows = window.rows("Actors")
    (actor,) = state.list_actors(filters=[("class_name", "=", "Counter")])
    (row,) = [row for row in rows if row[1] == "Counter"]
    # Markup in a name is text.
    assert row[2] == actor.name == "counter <b>of</b> things"
    assert row[3].endswith("ALIVE")
    assert row[4] == str(actor.pid)
    window.page.fill("main input[type=search]", "no such thing")
    window.until("document.querySelector('td.empty')")
    window.page.fill("main input[type=search]", "of</b>")
    assert len(window.rows("Actors")) == 1
    window.page.click("tbody tr button")
    assert actor.actor_id in window.page.inner_text("#dialog")
    window.page.click("#dialog button:has-text('Why?')")
    assert window.answer()


def test_objects(window, busy):
    window.view("objects")
    (row,) = [
        row for row in window.rows("References") if row[0].endswith(busy.large.hex()[-8:]) and "5.0 MiB" in row[1]
    ]
    assert row[2] == "arena"
    assert "conftest.py" in row[3]
    assert any("conftest.py" in row[0] for row in window.rows("Lines that made"))


def test_groups_workers_and_jobs(window, busy):
    window.view("groups")
    rows = {row[1]: row for row in window.rows("Placement groups")}
    assert rows["a group"][2].endswith("CREATED")
    window.view("workers")
    shown = {int(row[0]) for row in window.rows("Workers")}
    assert busy.counter_pid in shown
    window.view("jobs")
    shown = {row[0] for row in window.rows("Jobs")}
    assert {row.submission_id or row.job_id for row in state.list_jobs()} == shown


def test_a_job_is_followed_and_stopped(window, head, tmp_path):
    command = f"echo first line; while [ ! -e {tmp_path}/on ]; do sleep 0.02; done; echo second line; sleep 1000"
    status, _ = head.request("POST", "/api/jobs/", {"entrypoint": command, "submission_id": "followed"})
    assert status == 200
    window.view("jobs")
    row = "tbody tr:has-text('followed')"
    window.page.click(f"{row} button")
    window.page.keyboard.press("Escape")
    window.page.wait_for_selector(f"{row}:has-text('RUNNING')")
    window.page.click(f"{row} button")
    eventually(lambda: "job-driver-followed.log" in head.request("GET", "/api/v0/logs")[1], "log")
    eventually(lambda: _opens_log(window), "log in the page")
    window.until("document.getElementById('log').textContent.includes('first line')")
    (tmp_path / "on").touch()
    window.until("document.getElementById('log').textContent.includes('second line')")
    window.view("jobs")
    window.page.once("dialog", lambda dialog: dialog.accept())
    window.page.click(f"{row} button")
    window.page.click("#dialog button:has-text('Stop')")
    assert window.answer() == "It was told to stop."
    window.page.keyboard.press("Escape")
    window.page.wait_for_selector(f"{row}:has-text('STOPPED')")


def _opens_log(window):
    """The list of files comes with the stream, a moment later than the dialog."""
    window.page.click("#dialog button:has-text('Log')")
    window.page.wait_for_selector("#log, #dialog .trouble")
    return window.page.query_selector("#log")


def test_logs_are_searched(window):
    window.view("logs")
    names = {row[0] for row in window.rows("Log files")}
    assert {"gcs.log", "raylet.log"} <= names
    window.page.fill("form input", LINE)
    window.page.click("form button")
    window.page.wait_for_selector("main ol li")
    assert LINE in window.page.inner_text("main ol li")
    window.page.click("main ol li a")
    window.until(f"document.getElementById('log')?.textContent.startsWith('{LINE}')")


def test_what_happens_is_seen_at_once(window):
    window.view("groups")
    window.rows("Placement groups")
    group = ray.util.placement_group([{"CPU": 1}], name="seen at once")
    window.page.wait_for_selector("tbody tr:has-text('seen at once'):has-text('CREATED')")
    ray.util.remove_placement_group(group)
    window.page.wait_for_selector("tbody tr:has-text('seen at once'):has-text('REMOVED')")


def test_by_keyboard_alone(window):
    """Each view is gone to and used without a pointer, and what has the focus can be seen and has a name."""
    page = window.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for name in VIEWS:
        page.focus(f"nav a[href='#/{name}']")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"main[data-view={name}] h2")
        assert page.evaluate("document.activeElement.tagName") == "H2"
        assert page.get_attribute("nav a[aria-current=page]", "href") == f"#/{name}"
        unnamed = page.eval_on_selector_all(
            "main button, main input, main select, main a, main canvas[tabindex], main [role=region]",
            """all => all.filter(each => !(each.hidden || each.innerText || each.getAttribute('aria-label')
                || each.labels?.length || each.id === 'key')).map(each => each.outerHTML)""",
        )
        assert unnamed == []
        page.screenshot(path=PICTURES / f"{name}.png")
    page.focus("nav a[href='#/actors']")
    page.keyboard.press("Enter")
    window.rows("Actors")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('tbody') !== null"):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.keyboard.press("Enter")
    assert page.evaluate("document.getElementById('dialog').contains(document.activeElement)")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.closest('tbody') !== null")


def test_on_a_phone(browser, head, busy):
    context = browser.new_context(viewport={"width": 400, "height": 800}, has_touch=True, reduced_motion="reduce")
    seen = Seen(context, url_of(head.directory))
    seen.page.wait_for_selector("main[data-view=overview]")
    for name in VIEWS:
        seen.view(name)
        seen.page.wait_for_selector("main .card, main tbody tr, main canvas")
        wide = seen.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{name} is {wide} pixels too wide"
        seen.page.screenshot(path=PICTURES / f"{name}-on-a-phone.png")
    context.close()
    assert (seen.complaints, seen.elsewhere) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_written_can_be_read(browser, head, busy, scheme):
    """Letters differ from what is behind them as WCAG's level AA asks: 4.5 to 1."""
    context = browser.new_context(color_scheme=scheme)
    seen = Seen(context, url_of(head.directory))
    for name in ("overview", "tasks", "jobs"):
        seen.page.wait_for_selector("main[data-view] .card, main tbody tr[data-key]")
        faint = seen.page.evaluate(FAINT)
        assert faint == [], name
        seen.view(name)
    context.close()
    assert seen.complaints == []


def test_logs_of_another_node(window, head):
    command("start", f"--address={head.address}", "--num-cpus=0", "--resources", '{"beside": 1}')

    @ray.remote(num_cpus=0, resources={"beside": 1})
    def says():
        print("said beside", flush=True)
        return ray.get_runtime_context().get_node_id()

    node = ray.get(says.remote(), timeout=30)
    window.view("logs")
    window.page.wait_for_selector(f"main select option[value='{node}']", state="attached")
    window.page.select_option("main label:has-text('Node') select", node)
    window.until(f"location.hash === '#/logs/@{node}/'")
    window.until("[...document.querySelectorAll('tbody a')].some(each => each.textContent.startsWith('worker-'))")
    assert not any(row[0] == "gcs.log" for row in window.rows("Log files"))
    window.page.fill("form input", "said beside")
    window.page.click("form button")
    window.page.click("main ol li a")
    window.until("document.getElementById('log')?.textContent.startsWith('said beside')")
    # Followed, and back at the head.
    window.page.check("main .tools input[type=checkbox]")
    ray.get(says.remote(), timeout=30)
    window.until("document.getElementById('log').textContent.split('said beside').length === 3")
    window.page.select_option("main label:has-text('Node') select", "")
    window.until("location.hash === '#/logs'")
    window.until("[...document.querySelectorAll('tbody a')].some(each => each.textContent === 'gcs.log')")


FAINT = """() => {
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
        const even = (one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
        const [x, y, z] = [r, g, b].map((one) => even(one / 255));
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const found = parts(getComputedStyle(at).backgroundColor);
            if (found.length < 4 || found[3] > 0) return found;
        }
        return [255, 255, 255];
    };
    const says = (element) => [...element.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    const all = [...document.querySelectorAll('body *')];
    const words = all.filter((element) => element.checkVisibility() && says(element));
    return words.filter((element) => {
        const [a, b] = [light(parts(getComputedStyle(element).color)), light(behind(element))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
    }).map((element) => element.outerHTML.slice(0, 200));
}"""
