"""The deployment files, as far as they can be held to their word where no container runs."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from batchq.cli import cli

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SECRETS = {"POSTGRES_PASSWORD": "a", "VALKEY_PASSWORD": "b", "FLOWER_BASIC_AUTH": "name:c"}
PROGRAM = "/opt/batchq/venv/bin/batchq"


def assert_is_command(words: list[str]):
    """Whether `batchq` has this command with these options."""
    assert words[0] == "batchq", words
    told = CliRunner().invoke(cli, [*words[1:], "--help"])
    assert told.exit_code == 0, told.output
    options = [word for word in words[1:] if word.startswith("-")]
    assert all(option in told.output for option in options), words


def yaml_of(path: Path) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(path))


# --- compose ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    (document,) = yaml_of(ROOT / "docker-compose.yml")
    return document


@pytest.fixture(scope="module")
def ours(compose: dict[str, Any]) -> dict[str, Any]:
    """The services that run our image."""
    return {name: one for name, one in compose["services"].items() if one["image"] == "batchq"}


def test_compose_has_every_piece(compose: dict[str, Any], ours: dict[str, Any]):
    assert set(compose["services"]) == {"valkey", "postgres", *ours}
    assert set(ours) == {"upgrade", "coordinator", "aos1", "aos2", "web"}


def test_every_service_of_compose_runs_a_command_that_there_is(ours: dict[str, Any]):
    for service in ours.values():
        assert_is_command(service["command"])
        test = service.get("healthcheck", {}).get("test", [])
        if "batchq" in " ".join(test):
            assert_is_command(shlex.split(test[1].partition("|")[0]))


def test_compose_waits_for_a_database_that_is_upgraded_and_a_broker_that_answers(compose: dict[str, Any]):
    services = compose["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            ends = services[needed]["restart"] == "no"
            assert how["condition"] == f"service_{'completed_successfully' if ends else 'healthy'}"
            assert ends or "test" in services[needed]["healthcheck"]
        if name in ("coordinator", "aos1", "aos2", "web"):
            assert set(service["depends_on"]) == {"upgrade", "valkey"}
    assert set(services["upgrade"]["depends_on"]) == {"postgres"}


def test_compose_names_files_and_volumes_that_there_are(compose: dict[str, Any], ours: dict[str, Any]):
    for service in ours.values():
        assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["volumes"] == ["${BATCHQ_PROJECT:-./examples}:/app:ro"]
    assert (ROOT / "examples").is_dir()
    assert {one.partition(":")[0] for one in compose["services"]["postgres"]["volumes"]} == set(compose["volumes"])


def test_compose_has_no_password_of_its_own_and_opens_nothing_to_other_machines(compose: dict[str, Any]):
    text = (ROOT / "docker-compose.yml").read_text()
    used = dict(re.findall(r"\$\{(\w+)(:?.)", text))
    assert {name for name, way in used.items() if way == ":?"} == set(SECRETS)
    assert not re.search(r"(PASSWORD|PASS|AUTH)\w*: (?!\$\{)", text)
    ports = [port for one in compose["services"].values() for port in one.get("ports", [])]
    assert ports == ["127.0.0.1:${WEB_PORT:-5555}:5555"]


def test_docker_compose_itself_takes_the_file():
    ways = [["docker-compose"], ["docker", "compose"]]
    there = [way for way in ways if shutil.which(way[0]) and not run([*way, "version"]).returncode]
    if not there:
        pytest.skip("docker compose is not installed")
    asked = run([*there[0], "--project-directory", str(ROOT), "config", "--quiet"], **SECRETS)
    assert asked.returncode == 0, asked.stderr
    refused = run([*there[0], "--project-directory", str(ROOT), "--env-file", os.devnull, "config", "--quiet"])
    assert "required variable POSTGRES_PASSWORD is missing" in refused.stderr


def run(argv: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in SECRETS} | env
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)


# --- the image ----------------------------------------------------------------------------------------------


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's instructions and what follows them."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


def test_the_image_is_built_of_files_that_there_are_and_that_are_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]
    assert set(copied) == kept
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_runs_a_batchq_command_as_somebody_who_is_not_root():
    last = dict(instructions())
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert_is_command(words_of(last["CMD"]))
    assert_is_command(words_of(last["HEALTHCHECK"].partition("CMD ")[2]))


def words_of(array: str) -> list[str]:
    return YAML(typ="safe", pure=True).load(array)


# --- systemd, Kubernetes, Procfile, Flower ------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_every_unit_runs_a_command_that_there_is(unit: Path):
    (command,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(), flags=re.MULTILINE)
    assert command.startswith(f"{PROGRAM} ")
    assert_is_command(["batchq", *command.split()[1:]])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_itself_finds_no_fault_with_the_units(tmp_path: Path):
    for unit in UNITS:
        # Where it is a template, an instance of it; and a program that there is.
        copy = tmp_path / unit.name.replace("@.", "@AOS1.")
        copy.write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
        said = run(["systemd-analyze", "verify", str(copy)])
        assert "batchq" not in said.stdout + said.stderr


def test_every_container_of_kubernetes_runs_a_command_that_there_is():
    documents = yaml_of(DEPLOY / "kubernetes" / "batchq.yaml")
    pods = [one["spec"]["template"]["spec"] for one in documents if one["kind"] != "Service"]
    for pod in pods:
        for container in pod.get("initContainers", []) + pod["containers"]:
            assert_is_command(container["command"])
            assert container["envFrom"] == [{"secretRef": {"name": "batchq"}}]
        assert pod["securityContext"]["runAsNonRoot"]
        # A Service named flower would set FLOWER_PORT, and Flower would not start.
        assert pod["enableServiceLinks"] is False
    assert len(pods) == 3


def test_every_line_of_the_procfile_runs_a_command_that_there_is():
    lines = [line for line in (ROOT / "Procfile").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert_is_command(shlex.split(line.partition(":")[2]))
    assert len(lines) == 4


def test_flowerconfig_gives_plain_flower_what_batchq_web_has():
    from batchq.web.flower import DEFAULTS

    told = runpy.run_path(str(DEPLOY / "flowerconfig.py"))
    assert {name: value for name, value in told.items() if not name.startswith("__")} == DEFAULTS


@pytest.mark.parametrize(
    "path",
    [path for path in [ROOT / "Procfile", ROOT / "docker-compose.yml", *DEPLOY.rglob("*")] if path.is_file()],
    ids=lambda path: path.name,
)
def test_no_file_names_an_address_of_the_outside(path: Path):
    addresses = set(re.findall(r"https?://[^\s\"')]+", path.read_text()))
    assert addresses <= {"http://127.0.0.1:5555/healthcheck"}


@pytest.mark.parametrize("name", ["Dockerfile", "flowerconfig.py", "systemd", "kubernetes/batchq.yaml", "Procfile"])
def test_the_readme_names_every_piece(name: str):
    assert name in (DEPLOY / "README.md").read_text()
