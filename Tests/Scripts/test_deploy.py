"""Tests of deploy/: batch scripts against a Slurm of our own on loopback, manifests against Kubernetes' schemas.

Both need what most machines lack (Debian's slurmctld, slurm-client and munge; PyPI's kubernetes-validate) and are skipped
without it; what the scripts run is tested with stand-ins everywhere.
"""

import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
STAND_IN = """
import os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(os.path.basename(sys.argv[0]) + " " + " ".join(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("CODE_" + os.path.basename(sys.argv[0]), "0")))
"""


def tool(name):
    """Daemons lie in folders that ordinary users do not search."""
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


class SlurmScriptTests(unittest.TestCase):
    """The scripts with stand-ins for srun, scontrol and apus."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        for name in ("srun", "scontrol", "apus"):
            path = self.folder / name
            path.write_text(f"#!{sys.executable}\n{STAND_IN}")
            path.chmod(0o755)

    def run_script(self, name, **variables):
        calls = self.folder / "calls"
        calls.unlink(missing_ok=True)
        environment = {"PATH": f"{self.folder}:{os.environ['PATH']}", "CALLS": str(calls), "SLURM_JOB_ID": "7", **variables}
        done = subprocess.run(
            ["bash", DEPLOY / "slurm" / name], env=environment, capture_output=True, text=True, timeout=30, check=False)
        return done, calls.read_text().splitlines() if calls.exists() else []

    def test_serving_needs_a_model(self):
        done, calls = self.run_script("serve.sbatch")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("MODEL", done.stderr)
        self.assertEqual(calls, [])

    def test_serving_starts_one_process(self):
        done, calls = self.run_script("serve.sbatch", MODEL="/m x/model.gguf", SLURM_NTASKS="1", SLURM_CPUS_PER_TASK="8")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(calls), 1)
        self.assertTrue(calls[0].startswith("apus serve /m x/model.gguf --host 0.0.0.0 --port 8000 --threads 8"), calls)
        self.assertNotIn("tensor-parallel", calls[0])

    def test_several_tasks_cut_the_model(self):
        _, calls = self.run_script("serve.sbatch", MODEL="m", SLURM_NTASKS="4", PORT="9000", API_KEY_FILE="k")
        self.assertIn("--tensor-parallel 4", calls[0])
        self.assertIn("--port 9000", calls[0])
        self.assertIn("--api-key-file k", calls[0])

    def test_training_runs_a_rank_a_task(self):
        done, calls = self.run_script(
            "train.sbatch", RECIPE="r.yaml", SLURM_NTASKS="2", SLURM_CPUS_PER_TASK="3", SETTINGS="a.b=1 c.d=2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(
            calls, ["srun --kill-on-bad-exit=1 --mpi=pmix apus train r.yaml --resume --threads 3 a.b=1 c.d=2"])

    def test_an_interrupted_run_waits_again(self):
        done, calls = self.run_script("train.sbatch", RECIPE="r.yaml", CODE_srun="130")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(calls[-1], "scontrol requeue 7")

    def test_a_failed_run_fails(self):
        done, calls = self.run_script("train.sbatch", RECIPE="r.yaml", CODE_srun="3")
        self.assertEqual(done.returncode, 3)
        self.assertEqual(len(calls), 1)


@unittest.skipUnless(
    all(tool(name) for name in ("sbatch", "slurmctld", "munged", "mungekey")), "needs slurmctld, slurm-client and munge")
class SlurmTests(unittest.TestCase):
    """sbatch --test-only against a controller on loopback, whose two nodes of 64 cores and 8 GPUs exist on paper only."""

    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="apus-slurm-")
        cls.addClassCleanup(cls.scratch.cleanup)
        folder = Path(cls.scratch.name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        key, munge = folder / "munge.key", folder / "munge.socket"
        subprocess.run([tool("mungekey"), "--create", f"--keyfile={key}"], check=True)
        # munged takes no socket in a folder that others cannot enter.
        folder.chmod(0o755)
        cls.start([
            tool("munged"), "--foreground", "--force", f"--key-file={key}", f"--socket={munge}",
            f"--log-file={folder}/munged.log", f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/seed",
        ])  # fmt: skip
        (folder / "state").mkdir()
        (folder / "gres.conf").write_text("NodeName=node[1-2] Name=gpu Count=8\n")
        configuration = folder / "slurm.conf"
        configuration.write_text("\n".join([
            "ClusterName=apus", "SlurmctldHost=localhost(127.0.0.1)", f"SlurmctldPort={port}",
            f"SlurmUser={getpass.getuser()}", f"StateSaveLocation={folder}/state", f"SlurmctldPidFile={folder}/ctld.pid",
            f"SlurmctldLogFile={folder}/ctld.log", "AuthType=auth/munge", f"AuthInfo=socket={munge}", "CredType=cred/munge",
            "ProctrackType=proctrack/linuxproc", "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core_Memory",
            "GresTypes=gpu", "MpiDefault=none", "PrivateData=cloud", "MailProg=/bin/true", "SuspendProgram=/bin/true", "ResumeProgram=/bin/true", "SuspendTime=3600",
            # Nodes of a cloud are there without a daemon.
            "NodeName=node[1-2] CPUs=64 RealMemory=512000 Gres=gpu:8 State=CLOUD",
            "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP", "",
        ]))  # fmt: skip
        cls.environment = {**os.environ, "SLURM_CONF": str(configuration)}
        cls.start([tool("slurmctld"), "-D", "-c", "-f", configuration])
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            answer = cls.slurm("sinfo", "--noheader", "--format=%D %G")
            if answer.returncode == 0 and "2 gpu:8" in answer.stdout:
                return
            time.sleep(0.2)
        log = folder / "ctld.log"
        raise AssertionError(f"the controller does not answer: {answer.stderr} {log.read_text()[-2000:] if log.exists() else ''}")

    @classmethod
    def start(cls, command):
        process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=getattr(cls, "environment", None))  # fmt: skip

        def stop():
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        cls.addClassCleanup(stop)

    @classmethod
    def slurm(cls, *command):
        return subprocess.run(
            [str(word) for word in command], env=cls.environment, capture_output=True, text=True, timeout=60, check=False)

    def accepts(self, *command):
        done = self.slurm("sbatch", "--test-only", *command)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("to start at", done.stderr)
        return done.stderr

    def test_serving_is_accepted(self):
        self.assertIn("using 8 processors", self.accepts(DEPLOY / "slurm" / "serve.sbatch"))

    def test_serving_on_gpus_is_accepted(self):
        self.accepts("--ntasks=4", "--gpus-per-task=1", DEPLOY / "slurm" / "serve.sbatch")

    def test_training_is_accepted(self):
        self.accepts(DEPLOY / "slurm" / "train.sbatch")

    def test_training_on_two_nodes_is_accepted(self):
        told = self.accepts(
            "--nodes=2", "--ntasks-per-node=8", "--gpus-per-task=1", DEPLOY / "slurm" / "train.sbatch")
        self.assertIn("node[1-2]", told)

    def test_what_no_node_has_is_refused(self):
        done = self.slurm("sbatch", "--test-only", "--ntasks=1000", DEPLOY / "slurm" / "serve.sbatch")
        self.assertNotEqual(done.returncode, 0)


@unittest.skipUnless(importlib.util.find_spec("kubernetes_validate"), "needs kubernetes-validate")
class KubernetesTests(unittest.TestCase):
    """Every document against its schema, nothing unknown in it, and names that refer to each other."""

    @classmethod
    def setUpClass(cls):
        import yaml

        cls.documents = {
            path.name: list(yaml.safe_load_all(path.read_text())) for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        }

    def test_documents_follow_their_schemas(self):
        import kubernetes_validate

        self.assertEqual(sorted(self.documents), ["serve.yaml", "train.yaml"])
        for documents in self.documents.values():
            for document in documents:
                kubernetes_validate.validate(document, "1.37", strict=True)

    def test_the_service_finds_the_server_and_its_port(self):
        kinds = {document["kind"]: document for document in self.documents["serve.yaml"]}
        pod = kinds["Deployment"]["spec"]["template"]
        selector = kinds["Service"]["spec"]["selector"]
        self.assertEqual(selector, kinds["Deployment"]["spec"]["selector"]["matchLabels"])
        self.assertLessEqual(selector.items(), pod["metadata"]["labels"].items())
        container = pod["spec"]["containers"][0]
        port = kinds["Service"]["spec"]["ports"][0]["targetPort"]
        self.assertIn(port, [entry["name"] for entry in container["ports"]])
        self.assertEqual(container["readinessProbe"]["httpGet"], {"path": "/ready", "port": port})
        self.assertEqual(container["livenessProbe"]["httpGet"], {"path": "/health", "port": port})
        self.assertIn(f"--port={container['ports'][0]['containerPort']}", container["args"])

    def test_mounts_have_volumes_and_claims(self):
        for name, documents in self.documents.items():
            claims = [document["metadata"]["name"] for document in documents if document["kind"] == "PersistentVolumeClaim"]
            for document in documents:
                pod = document.get("spec", {}).get("template", {}).get("spec")
                if not pod:
                    continue
                volumes = {volume["name"]: volume for volume in pod["volumes"]}
                mounts = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
                self.assertEqual(mounts, set(volumes), name)
                used = [v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v]
                self.assertEqual(used, claims, name)


if __name__ == "__main__":
    unittest.main()
