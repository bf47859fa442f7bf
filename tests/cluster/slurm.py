"""A Slurm of two nodes with a made-up GPU each, on this machine's loopback alone.

It is set up as root, where no other Slurm is: what runs in jobs finds its way by
/etc/slurm/slurm.conf and nothing else.
"""

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("n1", "n2")
CONFIG = Path("/etc/slurm/slurm.conf")
GPUS = Path("/etc/slurm/gres.conf")
_MUNGE_SOCKET = Path("/run/munge")


@dataclass
class Slurm:
    """The daemons, each a child of this process."""

    folder: Path
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)

    def __enter__(self):
        for path in (CONFIG, GPUS):
            if path.exists():
                raise RuntimeError(f"{path}: expected no Slurm here, found one's file")
        for name in ("state", *(f"spool_{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        CONFIG.write_text(self._config())
        GPUS.write_text(
            "".join(f"NodeName={n} Name=gpu Count=1 File=/dev/null\n" for n in NODES)
        )
        try:
            _MUNGE_SOCKET.mkdir(mode=0o755, exist_ok=True)
            subprocess.run(["chown", "munge:munge", _MUNGE_SOCKET], check=True)
            self._start("munged", "runuser", "-u", "munge", "--", "munged", "-F")
            self._start("slurmctld", "slurmctld", "-D", "-c")
            for node in NODES:
                self._start(node, "slurmd", "-D", "-N", node)
            self._wait_for_nodes()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        for daemon in reversed(self.daemons.values()):
            if daemon.poll() is None:
                os.killpg(daemon.pid, signal.SIGTERM)
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
        CONFIG.unlink()
        GPUS.unlink(missing_ok=True)

    def kill_node(self, node):
        """Let a node lose its power: its daemon and all that runs on it are gone."""
        os.kill(self.daemons[node].pid, signal.SIGKILL)
        self.daemons[node].wait()
        for process in _processes_of(node):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def jobs(self):
        """Return {name: value} of every job that Slurm remembers."""
        fields = {"state": 20, "nodelist": 20, "comment": 80, "tres-per-job": 20,
                  "restartcnt": 10, "arrayjobid": 10}  # fmt: skip
        wanted = ",".join(f"{name}:{width}" for name, width in fields.items())
        rows = subprocess.run(
            ["squeue", "--states=all", "--noheader", "--array", f"--Format={wanted}"],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        jobs = []
        for row in rows:
            jobs.append({})
            for name, width in fields.items():
                jobs[-1][name], row = row[:width].strip(), row[width:]
        return jobs

    def _start(self, name, *command):
        with (self.folder / f"{name}.log").open("wb") as log:
            self.daemons[name] = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True
            )
        time.sleep(0.5)
        if self.daemons[name].poll() is not None:
            raise RuntimeError((self.folder / f"{name}.log").read_text())

    def _wait_for_nodes(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            states = subprocess.run(
                ["sinfo", "--Node", "--noheader", "--format=%T"],
                capture_output=True, text=True,
            ).stdout.split()  # fmt: skip
            if states == ["idle"] * len(NODES):
                return
            time.sleep(0.2)
        raise RuntimeError(f"{self.folder}: no idle nodes after 30 s: {states}")

    def _config(self):
        host = socket.gethostname()
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4"
            " RealMemory=16000 Gres=gpu:1 State=UNKNOWN"
            for port, node in enumerate(NODES, 6821)
        )
        return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=6817
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=2
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool_%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd_%n.pid
{nodes}
PartitionName=all Nodes={",".join(NODES)} Default=YES MaxTime=INFINITE State=UP
"""


def _processes_of(node):
    """Return the ids of a node's jobs, and of the steps that watch over them."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"SLURMD_NODENAME={node}".encode() in (folder / "environ").read_bytes():
                found.add(int(folder.name))
                parent = int(
                    (folder / "stat").read_text().rpartition(")")[2].split()[1]
                )
                if (Path("/proc") / str(parent) / "comm").read_text() == "slurmstepd\n":
                    found.add(parent)
    return found
