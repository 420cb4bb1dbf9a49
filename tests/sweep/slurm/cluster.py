"""A whole Slurm for tests: a controller and a few nodes of this machine, in a folder of their own.

    python tests/sweep/slurm/cluster.py COMMAND ...      # runs COMMAND inside one, then takes it down

Needs the programs of Debian's `slurm-wlm`, no root, no munge, no cgroups, nothing in /etc, nothing of the
machine's name. Whatever it starts ends with it, and with the thread that started it.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

# Slurm at its quickest. cred_expire is also how long a requeued job is held back, 2 minutes by default.
CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdLogFile={root}/slurmd.%n.log
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=6
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=8
KillWait=5
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
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
"""
NODE = "NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=64000 State=UNKNOWN\n"
# A node for each kind of accident: none disturbs the jobs of another.
PARTITIONS = """
PartitionName=main   Nodes=n1 Default=YES
PartitionName=closed Nodes=n1 State=DOWN
PartitionName=rude   Nodes=n2 PriorityTier=1
PartitionName=polite Nodes=n3 PriorityTier=1 GraceTime=25
PartitionName=first  Nodes=n2,n3 PriorityTier=9 PreemptMode=OFF
PartitionName=frail  Nodes=n4
PartitionName=short  Nodes=n5
"""
USER_SIGNAL = "SlurmctldParameters=preempt_send_user_signal"
NODES = ("n1", "n2", "n3", "n4", "n5")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo", "setpriv")
START_SECONDS = 60


class NotStarted(Exception):
    """This machine runs no Slurm; the message says why."""


@dataclass
class Cluster:
    """Running daemons; commands find them through SLURM_CONF."""

    root: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def begin(self, max_array: int, cpus: int) -> None:
        """Up to where a job has run. Raises: NotStarted."""
        for name in ("state", *(f"spool.{n}" for n in NODES)):
            (self.root / name).mkdir()
        control, *ports = free_ports(1 + len(NODES))
        text = CONF.format(root=self.root, user=os.getuid(), port=control, most=max_array)
        for node, port in zip(NODES, ports, strict=True):
            text += NODE.format(node=node, port=port, cpus=cpus)
        (self.root / "slurm.conf").write_text(text + PARTITIONS)
        # None are used; the plugin of v2 would want systemd all the same.
        (self.root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self.start("slurmctld", program("slurmctld"), "-D")
        for node in NODES:
            self.node(node)
        self.wait(self.idle, "not all nodes are ready")
        script, done = self.root / "first.sh", self.root / "done"
        script.write_text(f"#!/bin/sh\n#SBATCH --output=/dev/null\ntouch {done}\n")
        try:
            tell("sbatch", str(script))
        except RuntimeError as error:
            raise NotStarted(str(error)) from None
        self.wait(done.exists, "a job does not run")

    def wait(self, true: Callable[[], object], what: str) -> None:
        end = time.monotonic() + START_SECONDS
        while not true():
            dead = [n for n, d in self.daemons.items() if d.poll() is not None]
            if dead or time.monotonic() > end:
                said = f"{', '.join(dead)} ended" if dead else what
                raise NotStarted(f"{said}: {self.complaints(dead or self.daemons)}")
            time.sleep(0.1)

    def start(self, name: str, *command: str) -> None:
        """In the foreground of a session of its own, as a child that dies when we do."""
        log = (self.root / f"{name}.out").open("ab")
        with log:
            self.daemons[name] = subprocess.Popen(
                [program("setpriv"), "--pdeathsig", "KILL", *command], env=environment(self.root),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
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

    def preempt(self, node: str) -> None:
        """By a job of a partition that goes first, and wants all of the node for a moment."""
        tell("sbatch", "--partition=first", f"--nodelist={node}", "--exclusive", str(self.root / "first.sh"))  # fmt: skip

    def user_signal(self, wanted: bool) -> None:
        """Whether jobs get the signal of --signal when they are preempted."""
        conf = self.root / "slurm.conf"
        lines = [x for x in conf.read_text().splitlines() if x != USER_SIGNAL]
        conf.write_text("\n".join([*lines, *[USER_SIGNAL] * wanted]) + "\n")
        tell("scontrol", "reconfigure")

    def idle(self) -> bool:
        told = subprocess.run(["sinfo", "-hN", "-o", "%N %t"], capture_output=True, text=True)
        return {f"{n} idle" for n in NODES} <= set(told.stdout.splitlines())

    def complaints(self, names: Iterable[str]) -> str:
        """What daemons hold to be errors, the fatal ones if there are such."""
        lines = [x for n in names for x in (self.root / f"{n}.out").read_text(errors="replace").splitlines()]  # fmt: skip
        told = [x for x in lines if "fatal:" in x] or [x for x in lines if "error:" in x][-4:]
        return "; ".join(told) or "no error is told"

    def stop(self) -> None:
        for name in [*self.daemons]:  # the controller first: it must not send jobs elsewhere
            self.kill(name) if name == "slurmctld" else self.crash(name)


def program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise NotStarted(f"{name} is not installed: apt-get install slurm-wlm")
    return found


def tell(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


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
    """Below those that outgoing connections take, one of which may come while a node is down."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 500):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise NotStarted("no free ports between 20,000 and 32,000")


@contextmanager
def cluster(max_array: int = 1001, cpus: int = 8) -> Iterator[Cluster]:
    """A running one, its environment in os.environ for as long. cpus: of each node, by its word.

    Raises: NotStarted.
    """
    for name in PROGRAMS:
        program(name)
    before = dict(os.environ)
    made = Cluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    try:
        inside = environment(made.root)
        os.environ.clear()
        os.environ.update(inside)
        made.begin(max_array, cpus)
        yield made
    finally:
        made.stop()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(made.root, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with cluster():
        sys.exit(subprocess.run(sys.argv[1:]).returncode)
