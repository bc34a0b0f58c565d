"""What a team shares through DVC: a bucket, versions of a model, a model elsewhere."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.files import digests_in
from tests.project import UNTRACKED, Workspace
from toygpt.cli import main

pytestmark = pytest.mark.slow

MODEL = "models/toygpt"
PROMPT = "def read("


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of an S3 server on this machine that has the bucket `team`."""
    server = pytest.importorskip("moto.server", reason="`uv sync` installs moto")
    pytest.importorskip("dvc_s3", reason="`uv sync --extra s3` installs it")
    boto3 = pytest.importorskip("boto3", reason="`uv sync` installs moto with it")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    try:
        host, port = started.get_host_and_port()
        address = f"http://{host}:{port}"
        client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        client.create_bucket(Bucket="team")
        yield address
    finally:
        started.stop()


def test_a_bucket_brings_everything_back(project: Workspace, bucket: str) -> None:
    project.environment |= {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    project.dvc("remote", "add", "--default", "storage", "s3://team/toygpt")
    project.dvc("remote", "modify", "storage", "endpointurl", bucket)
    before = digests_in(project.root / MODEL)
    project.dvc("push")
    project.run("rm", "-r", "data", "models", "reports", ".dvc/cache")

    project.dvc("pull")

    assert digests_in(project.root / MODEL) == before
    assert "up to date" in project.dvc("status").stdout


def test_versions_and_stages_of_the_model_are_tags_by_which_dvc_gets_it(
    project: Workspace, tmp_path: Path
) -> None:
    """GTO comes with DVC. A version is a commit: the model may change after it."""
    first = digests_in(project.root / MODEL)
    project.run("gto", "register", "toygpt")
    project.run("gto", "assign", "toygpt", "--version", "v0.0.1", "--stage", "prod")
    (project.root / MODEL / "README.md").write_text("another model")
    project.dvc("commit", "--force", "train")
    project.commit("another model")
    project.run("gto", "register", "toygpt")
    assert digests_in(project.root / MODEL) != first

    def get(*version: str) -> dict[str, str]:
        folder = str(tmp_path / version[-1])
        project.dvc("artifacts", "get", ".", "toygpt", *version, "--out", folder)
        return digests_in(Path(folder))

    shown = project.run("gto", "show").stdout
    assert re.search(r"toygpt +│ v0\.0\.2 +│ v0\.0\.1", shown)
    assert get("--stage", "prod") == get("--rev", "v0.0.1") == first
    assert get("--rev", "v0.0.2") == digests_in(project.root / MODEL)


def test_another_project_imports_the_model_and_it_writes_there(
    project: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the remote: the cache of the model's project is not needed."""
    project.dvc("remote", "add", "--default", "storage", str(tmp_path / "remote"))
    project.commit("with a remote")
    project.dvc("push")
    project.run("rm", "-r", ".dvc/cache")
    other = Workspace(tmp_path / "other")
    other.root.mkdir()
    other.run("git", "init", "--quiet")
    other.dvc("init", "--quiet")

    other.dvc("import", str(project.root), MODEL, "--out", "model")

    assert digests_in(other.root / "model") == digests_in(project.root / MODEL)
    assert "rev_lock" in (other.root / "model.dvc").read_text()
    other.enter(monkeypatch)
    options = ("--model", "model", "--prompt", PROMPT, "--max-new-tokens", "4")
    assert main(["generate", *options]) == 0
    assert capsys.readouterr().out.startswith(PROMPT)


def test_stages_read_links_into_a_cache_and_leave_it_as_it_was(
    project: Workspace,
) -> None:
    """In a shared cache a result of another user is such a link, and read-only."""
    project.set_params(UNTRACKED)
    project.dvc("config", "--local", "cache.type", "symlink")
    project.dvc("checkout", "--relink")
    assert (project.root / MODEL / "model.safetensors").is_symlink()
    cache = project.root / ".dvc/cache/files"
    before, model = digests_in(cache), digests_in(project.root / MODEL)
    lock = (project.root / "dvc.lock").read_bytes()

    again = ("repro", "--force", "--single-item")
    project.dvc(*again, "evaluate", "generate-samples")

    assert (project.root / "dvc.lock").read_bytes() == lock, "other bytes again"

    project.dvc(*again, "train")

    assert digests_in(cache).items() >= before.items()
    assert digests_in(project.root / MODEL) == model, "trained again"
