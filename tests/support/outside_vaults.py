"""Roots and places outside Daulat, real ones where this machine has them: SoftHSM2, OpenBao, SeaweedFS."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.service import free_port

from daulat.adapters.vault_transit import TransitRoot
from daulat.vault.ports import Place, Root

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
_WAIT_SECONDS = 180.0


def secret(path: Path, text: str) -> Path:
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


def softhsm_token(folder: Path, label: str, pin: str) -> None:
    """A new token of SoftHSM2. Its module reads once a process where tokens lie: all of a process' lie in one place."""
    if not SOFTHSM.exists() or importlib.util.find_spec("pkcs11") is None:
        pytest.skip("needs Debian's softhsm2 and the extra `pkcs11`")
    tokens = Path(os.environ.setdefault("SOFTHSM2_HOME_OF_TESTS", str(folder)))
    configuration = tokens / "softhsm2.conf"
    if not configuration.exists():  # the module reads it once a process
        (tokens / "tokens").mkdir()
        configuration.write_text(f"directories.tokendir = {tokens / 'tokens'}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", pin]
    subprocess.run(command, check=True, capture_output=True)
    import pkcs11  # noqa: PLC0415

    pkcs11.lib(str(SOFTHSM)).reinitialize()  # tokens that another process made are seen only then


@contextlib.contextmanager
def pkcs11_root(folder: Path) -> Iterator[Root]:
    """In a token of its own."""
    label = f"test-{os.urandom(4).hex()}"
    softhsm_token(folder, label, "87654321")
    from daulat.adapters.vault_pkcs11 import Pkcs11Root  # noqa: PLC0415

    uri = f"pkcs11:token={label};object=daulat%20vault?module-path={SOFTHSM}"
    yield Pkcs11Root(uri, secret(folder / "pin", "87654321"))


@contextlib.contextmanager
def server(command: list[str], folder: Path, ready: str, environment: dict[str, str]) -> Iterator[None]:
    """Until `ready` answers anything over HTTP."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment}, cwd=folder)
    try:
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(ready, timeout=2.0, trust_env=False)
                break
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < end, (folder / "server.log").read_text()[-2000:]
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def transit_root(folder: Path) -> Iterator[Root]:
    """A key of the Transit engine of an OpenBao that keeps everything in memory."""
    bao = shutil.which("bao")
    if bao is None:
        pytest.skip("needs the program `bao`")
    port, token = free_port(), "root-of-tests"
    base = f"http://127.0.0.1:{port}"
    command = [bao, "server", "-dev", f"-dev-root-token-id={token}", f"-dev-listen-address=127.0.0.1:{port}"]
    with server(command, folder, f"{base}/v1/sys/health", {"HOME": str(folder)}):
        headers = {"X-Vault-Token": token}
        mount = f"{base}/v1/sys/mounts/transit"
        answer = httpx.post(mount, json={"type": "transit"}, headers=headers, trust_env=False, timeout=_WAIT_SECONDS)
        assert answer.is_success, answer.text
        root = TransitRoot(f"{base}/v1/transit/keys/daulat", secret(folder / "token", token))
        with contextlib.closing(root):
            yield root


@contextlib.contextmanager
def s3_bucket(folder: Path, name: str = "kept") -> Iterator[Place]:
    """A bucket of a SeaweedFS."""
    port = free_port()
    with seaweed(folder, port):
        yield made_bucket(folder, port, name)


def seaweed(folder: Path, port: int) -> contextlib.AbstractContextManager[None]:
    """A SeaweedFS over a folder, which may have been another's before. It is killed in the end."""
    weed = shutil.which("weed")
    if weed is None or importlib.util.find_spec("botocore") is None:
        pytest.skip("needs the program `weed` and the extra `s3`")
    command = [weed, "mini", f"-dir={folder}", f"-s3.port={port}"]
    return server(command, folder, f"http://127.0.0.1:{port}/", {})


def made_bucket(folder: Path, port: int, name: str) -> Any:
    """A new bucket there, as `daulat.adapters.vault_s3.Bucket`, whose secret lies in `folder`/s3."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    from daulat.adapters.vault_s3 import Bucket  # noqa: PLC0415

    bucket = Bucket(f"s3+http://127.0.0.1:{port}/{name}", secret(folder / "s3", "tests:tests-secret"))
    client, end = bucket._client, time.monotonic() + _WAIT_SECONDS
    there = (client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou)
    while True:  # it answers before what keeps objects has found to the rest of it
        try:
            with contextlib.suppress(*there):
                client.create_bucket(Bucket=name)
            client.put_object(Bucket=name, Key="first", Body=b"first")
            client.delete_object(Bucket=name, Key="first")
        except (BotoCoreError, ClientError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return bucket
