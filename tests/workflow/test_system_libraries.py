"""A newcomer without root is told the one line to run, before anything half works."""

import os
import subprocess

import pytest

from tests.workflow.conftest import ROOT


@pytest.fixture
def bare_machine(tmp_path):
    """Put commands in front of the real ones: no libraries, an ordinary user."""

    def command(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    command("ldconfig", "exit 0")
    command("id", "echo 1000")
    command("apt-get", f"touch {tmp_path}/installed")
    return tmp_path


def run_script(path):
    environment = os.environ | {"PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", ROOT / "envs/system_libraries.sh"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_an_ordinary_user_gets_one_line_to_run(bare_machine):
    done = run_script(bare_machine)
    assert done.returncode == 1
    assert "apt-get install" in done.stderr
    for package in ("libusb-1.0-0", "libgl1", "libegl1", "libx11-6", "libglib2.0-0"):
        assert package in done.stderr
    assert not (bare_machine / "installed").exists()


def test_root_gets_them_installed(bare_machine):
    (bare_machine / "id").write_text("#!/bin/sh\necho 0\n")
    assert run_script(bare_machine).returncode == 0
    assert (bare_machine / "installed").exists()


def test_nothing_is_asked_for_when_all_is_there(tmp_path):
    names = (
        "libusb-1.0.so.0 libudev.so.1 libGL.so.1 libEGL.so.1 libX11.so.6"
        " libgthread-2.0.so.0"
    )
    (tmp_path / "ldconfig").write_text(f"#!/bin/sh\necho {names}\n")
    (tmp_path / "ldconfig").chmod(0o755)
    done = run_script(tmp_path)
    assert done.returncode == 0 and done.stdout == ""
