"""Three sites on two hosts behind HAProxy with PostgreSQL: failures lose no request, no answer and no feedback."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.site_hosts import HAPROXY_CONFIG, missing_tools
from bench.sites import SITES, LoadOptions, run

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")


@pytest.mark.skipif(HAPROXY is None, reason="needs HAProxy (Debian: apt-get install haproxy)")
def test_haproxy_accepts_the_example_of_the_documentation() -> None:
    process = subprocess.run([str(HAPROXY), "-c", "-f", str(HAPROXY_CONFIG)], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "warning" not in process.stderr.lower()
    page = HAPROXY_CONFIG.with_name("sites.md").read_text()
    (shown,) = re.findall(r"```text title=\"haproxy.cfg\"\n(.*?)```", page, re.DOTALL)
    assert shown == HAPROXY_CONFIG.read_text()


@pytest.mark.slow
@pytest.mark.postgres
def test_killed_disconnected_drained_and_updated_sites_lose_nothing(tmp_path: Path) -> None:
    if missing := missing_tools():
        pytest.skip(f"needs {', '.join(missing)}")
    notes: list[str] = []
    size = LoadOptions(seconds=12.0, clients=6, tokens=64, restarts=False, next_replicas=("r4",))
    figures = run(tmp_path, size, note=notes.append)
    assert (figures["lost"], figures["wrong"], figures["feedback_problems"]) == ([], [], []), (figures, notes)
    assert figures["completed"] == figures["feedback"] > 30
    assert set(figures["sites"]) == set(SITES) and set(figures["versions"]) == {"load:1", "load:2"}
