"""`batchq web` answers to names that it knows, and each of its answers says what a browser may do with it."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import flower
import pytest

from batchq.web.door import SCRIPT, _known, _policy
from support.site import Site

LISTENS = re.compile(r"http://127\.0\.0\.1:(\d+)")
CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "Flower in a browser is NOT TESTED: there is no chromium on this machine; apt-get install chromium"
TEMPLATES = Path(flower.__file__).parent / "templates"
PATHS = (
    "/", "/workers", "/workers?json=1", "/worker/nobody", "/tasks", "/tasks/datatable", "/task/none", "/broker",
    "/static/js/flower.js", "/static/none", "/favicon.ico", "/api/workers", "/api/tasks", "/api/task/info/none",
    "/metrics", "/healthcheck", "/login", "/logout", "/nowhere", "/%ff", "//evil.example/",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("door"), web_hosts="Batch.example, *.intern.example.") as site:
        site.start_broker()
        site.start_server("AOS1", threads=1)
        site.start("web", "web", "--port", "0", FLOWER_UNAUTHENTICATED_API="1")
        site.wait_for("Flower to listen", lambda: LISTENS.search(site.log("web")))
        run = site.submit("job: SHOWN\ntasks: {A: {run: ledger.work}, B: {run: ledger.work, after: A}}")
        site.wait_end(run)
        site.wait_for("the tasks in Flower", lambda: len(json.loads(get(site, "/api/tasks")[2])) == 2)
        site.wait_for("AOS1 in Flower", lambda: json.loads(get(site, "/api/workers?refresh=1")[2]))
        yield site


def port(site: Site) -> int:
    found = LISTENS.search(site.log("web"))
    assert found
    return int(found[1])


def get(
    site: Site, path: str, host: str | None = "localhost", method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """The answer to a request under this name; without a name if it is None."""
    client = http.client.HTTPConnection("127.0.0.1", port(site), timeout=20)
    client.putrequest(method, path, skip_host=True)
    for name, value in ({"Host": host} if host is not None else {}).items() | headers.items():
        client.putheader(name, value)
    client.putheader("Content-Length", "0")
    client.endheaders()
    answer = client.getresponse()
    body = answer.read()
    client.close()
    return answer.status, answer.headers, body


@pytest.mark.slow
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1", "",
             "xintern.example", "batch.example.evil", "[::2]", "0.0.0.0", "localhost@evil.example", "\xe9vil"]
)  # fmt: skip
def test_a_name_that_is_not_known_gets_nothing(site: Site, host: str):
    for path in PATHS:
        for method in ("GET", "POST", "OPTIONS", "HEAD"):
            status, headers, body = get(site, path, host, method)
            assert status in (400, 403, 404), (path, method)
            assert b"AOS1" not in body
            assert b"SHOWN" not in body
            if status == 403:
                assert headers["X-Frame-Options"] == "DENY"


@pytest.mark.slow
@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1", "127.8.9.1:5555", "[::1]", "[::1]:5555",
             "batch.example", "BATCH.EXAMPLE.:80", "a.b.intern.example"]
)  # fmt: skip
def test_a_name_that_is_known_gets_the_page(site: Site, host: str):
    assert get(site, "/healthcheck", host)[::2] == (200, b"OK")


@pytest.mark.slow
def test_every_answer_says_what_a_browser_may_do_with_it(site: Site):
    seen = set()
    for path in PATHS:
        for method, more in (("GET", {}), ("POST", {}), ("PUT", {}), ("GET", {"Upgrade": "websocket"})):
            status, headers, _ = get(site, path, method=method, **more)
            seen.add(status)
            assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self' 'sha256-"), path
            assert headers.get_all("X-Frame-Options") == ["DENY"], path
            assert headers.get_all("X-Content-Type-Options") == ["nosniff"], path
            assert headers.get_all("Referrer-Policy") == ["same-origin"], path
    etag = get(site, "/static/js/flower.js")[1]["Etag"]
    status, headers, _ = get(site, "/static/js/flower.js", **{"If-None-Match": etag})
    assert (status, headers["X-Frame-Options"]) == (304, "DENY")
    assert {200, 404, 405} <= seen


@pytest.mark.parametrize(
    ("host", "address", "known"),
    [
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.4", "10.1.2.3", False),
        ("10.1.2.3", "0.0.0.0", True),
        ("batch.example", "0.0.0.0", False),
        ("10.1.2.3", "", True),
        ("[fe80::1]", "::", True),
        ("localhost", "10.1.2.3", True),
        ("", "", False),
    ],
)
def test_the_address_that_is_listened_on_is_known(host: str, address: str, known: bool):
    assert _known(host, [], address) is known


def test_the_policy_knows_every_script_of_flowers_templates_and_lets_no_other_run():
    policy = _policy(TEMPLATES)
    inline = sum(len(SCRIPT.findall(path.read_text())) for path in TEMPLATES.glob("*.html"))
    scripts = next(rule for rule in policy.split("; ") if rule.startswith("script-src "))
    assert scripts.count("'sha256-") == 2 * inline == 2
    assert "unsafe-inline" not in policy
    assert "unsafe-eval" not in policy
    assert not re.search(r"\son[a-z]+=", "".join(path.read_text() for path in TEMPLATES.glob("*.html")))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_flowers_own_pages_work_in_a_browser_under_the_policy(site: Site, tmp_path: Path):
    (one, *_) = json.loads(get(site, "/api/tasks")[2])
    (worker,) = json.loads(get(site, "/api/workers")[2])
    shows = {"/": "AOS1@", "/tasks": "SHOWN / A", f"/worker/{quote(worker)}": "AOS1@", f"/task/{one}": "SHOWN / "}
    for path, text in (shows | {"/broker": "Broker"}).items():
        dom, said = browsed(site, path, tmp_path)
        assert text in dom, (path, said[-2000:])
        assert "Content Security Policy" not in said, (path, said)
        assert "Uncaught" not in said, (path, said)
        # Only its scripts make these.
        assert path not in ("/", "/tasks") or "dataTables_wrapper" in dom


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_a_browser_shows_no_page_in_a_frame_of_anothers(site: Site, tmp_path: Path):
    page = tmp_path / "evil.html"
    page.write_text(f'<iframe src="http://127.0.0.1:{port(site)}/"></iframe>')
    _, said = browsed(site, page.as_uri(), tmp_path)
    assert "Refused to " in said or "frame-ancestors" in said, said


def browsed(site: Site, path: str, folder: Path) -> tuple[str, str]:
    """The page as the browser has it after its scripts have run, and what stood in its console."""
    assert CHROMIUM
    url = path if "://" in path else f"http://127.0.0.1:{port(site)}{path}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000", "--enable-logging=stderr"]
    ended = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", url], capture_output=True, text=True, timeout=90, check=False, cwd=folder
    )
    said = "\n".join(line for line in ended.stderr.splitlines() if "CONSOLE" in line or "Refused" in line)
    return ended.stdout, said
