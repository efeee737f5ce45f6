"""Starting ranks: mpirun of Open MPI and of MPICH, as far as they are there."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APUS = Path(os.environ.get("APUS_BINARY", ROOT / ".build" / "release" / "apus"))


def launchers():
    """The names of the launchers on this machine: "openmpi", "mpich"."""
    return [name for name in ("openmpi", "mpich") if shutil.which(f"mpirun.{name}")]


def line(launcher, ranks, *arguments):
    """The command line of `apus` on some ranks."""
    # More ranks than cores, and the super-user of a container, are not what Open MPI expects.
    # MPICH kills the others of a rank that died before they can say which it was, unless it is told not to.
    options = {
        "openmpi": ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"], "mpich": ["-disable-auto-cleanup"],
    }[launcher]
    return [f"mpirun.{launcher}", *options, "-n", str(ranks), APUS, *map(str, arguments)]


def environment(**variables):
    return {**os.environ, **{name: str(value) for name, value in variables.items()}}


def run(launcher, ranks, *arguments, timeout=240, **variables):
    return subprocess.run(
        line(launcher, ranks, *arguments), capture_output=True, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL, env=environment(**variables))


def processes(parent):
    """The ranks below a launcher: rank to process id."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = {}
    for process in parents:
        above = process
        while above in parents and above != parent:
            above = parents[above]
        if above != parent or process == parent:
            continue
        try:
            if os.readlink(f"/proc/{process}/exe") != str(APUS.resolve()):
                continue
            variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for variable in variables:
            name, _, value = variable.partition(b"=")
            if name in (b"OMPI_COMM_WORLD_RANK", b"PMI_RANK", b"RANK"):
                found[int(value)] = process
    return found
