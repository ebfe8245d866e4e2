"""Starts a peer beside a daemon that plays IPFS, and runs schemathesis against the document that the peer serves.

Usage: run.py SERVICE FAKE_KUBO [ARGUMENTS OF schemathesis run]. Once without users, once with.
"""

import base64
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from openapi_spec_validator import validate

HERE = pathlib.Path(__file__).resolve().parent
START_SECONDS_MAX = 30
USER = "tester:secret"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def running(command, **options):
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **options) as child:
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()


def ask(url, user=None):
    headers = {}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        return answer.read()


def wait_for(url, child):
    end = time.monotonic() + START_SECONDS_MAX
    while True:
        if child.poll() is not None:
            sys.exit(f"the peer ended with {child.returncode}")
        try:
            return ask(url)
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def test(service, fake_kubo, arguments, user):
    """Runs the whole against one peer; whether nothing was found."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        kubo, api, swarm = free_port(), free_port(), free_port()
        kubo_command = [fake_kubo, "--listen", f"127.0.0.1:{kubo}"]
        stack.enter_context(running(kubo_command, stdout=subprocess.DEVNULL))
        environment = dict(
            os.environ,
            CLUSTER_RESTAPI_HTTPLISTENMULTIADDRESS=f"/ip4/127.0.0.1/tcp/{api}",
            CLUSTER_IPFSHTTP_NODEMULTIADDRESS=f"/ip4/127.0.0.1/tcp/{kubo}",
            CLUSTER_LISTENMULTIADDRESS=f"/ip4/127.0.0.1/tcp/{swarm}",
            CLUSTER_MDNSINTERVAL="0s",
        )
        if user:
            environment["CLUSTER_RESTAPI_BASICAUTHCREDENTIALS"] = user
        command = [service, "--config", folder]
        subprocess.run([*command, "init"], env=environment, check=True, stdout=subprocess.DEVNULL)
        log = pathlib.Path(folder, "daemon.log")
        with log.open("w") as writer:
            options = {"stdout": writer, "stderr": writer, "env": environment}
            daemon = stack.enter_context(running([*command, "daemon"], **options))
        url = f"http://127.0.0.1:{api}"
        wait_for(f"{url}/health", daemon)
        document = pathlib.Path(folder, "openapi.json")
        document.write_bytes(ask(f"{url}/openapi.json", user))
        validate(json.loads(document.read_bytes()))
        print(f"valid OpenAPI: {document.stat().st_size} bytes", flush=True)
        tester = ["schemathesis", "--config-file", str(HERE / "schemathesis.toml"), "run", str(document)]
        # Its answer has no end.
        tester += ["--exclude-path", "/events"]
        if user:
            tester += ["--auth", user]
        tester[0] = str(pathlib.Path(sys.executable).with_name(tester[0]))
        hooked = dict(os.environ, SCHEMATHESIS_HOOKS=str(HERE / "hooks.py"))
        result = subprocess.run([*tester, "--url", url, *arguments], env=hooked, cwd=folder)
        alive = daemon.poll() is None
        panics = [line for line in log.read_text().splitlines() if "panicked" in line]
        # Still serving, and quick.
        ask(f"{url}/id", user)
        for line in panics:
            print(line)
        print(f"the peer lives: {alive}; panics: {len(panics)}", flush=True)
        return result.returncode == 0 and alive and not panics


def main():
    service, fake_kubo, *arguments = sys.argv[1:]
    passed = True
    for user, words in [(None, "without users"), (USER, "with users")]:
        print(f"--- {words}", flush=True)
        passed &= test(service, fake_kubo, arguments, user)
    sys.exit(0 if passed else 1)


main()
