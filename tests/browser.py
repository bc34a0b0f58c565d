"""Pages as a browser shows them: headless Chromium, without a network."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.project import PATIENCE_SECONDS

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OFFLINE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND"),
    "--enable-logging=stderr",
)


def seen_in_browser(page: Path) -> str:
    """Return the document after its scripts have run, if none wrote to the console.

    A request that the page's policy forbids would be a message in the console, too.
    """
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, *OFFLINE, profile, "--dump-dom", page.as_uri()]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    assert re.findall(r".*CONSOLE.*", done.stderr) == []
    return re.sub("<script.*?</script>", "", done.stdout, flags=re.DOTALL)
