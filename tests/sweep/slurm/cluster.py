"""A whole Slurm for tests: a controller and two nodes of this machine, in a folder of their own.

    python tests/slurm/cluster.py COMMAND ...      # runs COMMAND inside one, then takes it down

Needs the programs of Debian's `slurm-wlm`, no root, no munge, nothing in /etc. Whatever it starts ends with it.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdLogFile={root}/slurmd.%n.log
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=5
KillWait=2
BatchStartTimeout=60
MessageTimeout=60
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MaxArraySize={most}
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={root}/jobcomp.log
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=64000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=main   Nodes=n1 Default=YES PriorityTier=1 PreemptMode=REQUEUE
PartitionName=polite Nodes=n1 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=first  Nodes=n1 PriorityTier=9 PreemptMode=OFF
PartitionName=frail  Nodes=n2 PriorityTier=1
PartitionName=closed Nodes=n1 State=DOWN
"""
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")


@dataclass
class Cluster:
    """Running daemons; commands find them through SLURM_CONF."""

    root: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        """In the foreground of a session of its own, as a child that dies when we do."""
        log = (self.root / f"{name}.out").open("ab")
        with log:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], env=environment(self.root), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def node(self, name: str) -> None:
        self.start(name, program("slurmd"), "-D", "-N", name)

    def crash(self, name: str) -> None:
        """As when a node loses its power: its daemon and all that it started are gone at once."""
        self.kill(name)
        for pid in on_node(self.root, name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill(self, name: str) -> None:
        """Only the daemon; jobs run on without it."""
        daemon = self.daemons.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()

    def user_signal(self, wanted: bool) -> None:
        """Whether jobs get the signal of --signal when they are preempted."""
        conf = self.root / "slurm.conf"
        lines = [
            x for x in conf.read_text().splitlines() if not x.startswith("SlurmctldParameters")
        ]
        lines += ["SlurmctldParameters=preempt_send_user_signal"] * wanted
        conf.write_text("\n".join(lines) + "\n")
        subprocess.run(["scontrol", "reconfigure"], check=True, capture_output=True)

    def stop(self) -> None:
        for name in [*self.daemons]:
            self.kill(name) if name == "slurmctld" else self.crash(name)


def program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: apt-get install slurm-wlm")
    return found


def on_node(root: Path, name: str) -> Iterator[int]:
    """Processes of jobs there and of the steps that hold them; both outlive their daemon."""
    conf, node = f"SLURM_CONF={root / 'slurm.conf'}".encode(), f"SLURMD_NODENAME={name}".encode()
    log = str(root / f"slurmd.{name}.log")
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            mine = entry.name.isdigit() and {conf, node} <= set((entry / "environ").read_bytes().split(b"\0"))  # fmt: skip
            if mine or any(os.readlink(f) == log for f in (entry / "fd").iterdir()):
                yield int(entry.name)


def environment(root: Path) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    return own | {"SLURM_CONF": str(root / "slurm.conf")}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait(what: str, true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.1)


@contextmanager
def cluster(max_array: int = 1001, cpus: int = 8) -> Iterator[Cluster]:
    """A running one, its environment in os.environ for as long. cpus: of each node, by its word."""
    for name in PROGRAMS:
        program(name)
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    for part in ("state", "spool.n1", "spool.n2"):
        (root / part).mkdir()
    values = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "root": root}
    values |= {"ports": free_ports(3), "most": max_array, "cpus": cpus}
    (root / "slurm.conf").write_text(CONF.format(**values))
    before = dict(os.environ)
    made = Cluster(root)
    try:
        os.environ.clear()
        os.environ.update(environment(root))
        made.start("slurmctld", program("slurmctld"), "-D")
        made.node("n1")
        made.node("n2")

        def ready() -> bool:
            told = subprocess.run(["sinfo", "-hN", "-o", "%N %t"], capture_output=True, text=True)
            return {"n1 idle", "n2 idle"} <= set(told.stdout.splitlines())

        wait(f"Slurm did not start: see {root}", ready)
        yield made
    finally:
        subprocess.run(["scancel", "-u", values["user"]], capture_output=True)
        made.stop()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with cluster():
        sys.exit(subprocess.run(sys.argv[1:]).returncode)
