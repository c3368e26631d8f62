"""Runs a rendered `gke-xpk` command through `xpk --dry-run`, and checks the manifest that xpk would submit.

    python -m venv xpk && xpk/bin/pip install xpk && PATH=xpk/bin:$PATH python tests/benchmarks/xpk_dry_run.py

Needs no cloud and no credentials. Not in the suite: xpk brings half a cloud SDK along.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bioclip_jax.launching import jobset, xpk
from bioclip_jax.launching.hardware import TpuSlices
from bioclip_jax.launching.job import RESTARTED, Job, parse_work_dir
from bioclip_jax.launching.site import Site

HOSTILE = ("a b", "it's", 'say "no"', "$(touch x) `id` $HOME", "two\nlines", "{braces} %s \\ * #", "", "ä")
SITE = Site(image="image", project="my-project", zone="us-west4-a", cluster="my-cluster", storage="")
SLICES = TpuSlices("v5e", (16, 16), slices=2)


def main() -> None:
    """Prints what was compared, and fails where it differs."""
    job = Job(
        name="my-run",
        config="config.py",
        config_text="config = 'mine'\n",
        work_dir=parse_work_dir("/disk/run"),
        fields=tuple(word for value in HOSTILE for word in ("--data.split", value)),
        environment={"A": HOSTILE[3]},
        grace_seconds=240,
    )
    with tempfile.TemporaryDirectory() as folder:
        ((*command, last),) = xpk.render(job, SLICES, SITE).commands
        path = Path(folder, "manifest.yaml")
        _dry_run([*command, f"--output-manifest-file={path}", last], folder)
        manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
        words, config = _what_bash_runs(manifest, Path(folder))
    ours = jobset.job_set(job, SLICES, Site(volume_claim="disk", volume_path="/disk"))
    for name, (theirs, own) in _compared(manifest, ours).items():
        print(f"{name}: {theirs}")
        if theirs != own:
            raise SystemExit(f"xpk has {name} {theirs}, gke-jobset has {own}")
    theirs, wanted = words[:-1], list(job.command(xpk.CONFIG)[1:])
    if theirs != wanted or words[-1] != HOSTILE[3] or config != job.config_text:
        raise SystemExit(f"words came out as {words}, not as {wanted}")
    print(f"{len(wanted)} words, a variable and a config file came out as they went in")


def _dry_run(command: Sequence[str], folder: str) -> None:
    environment = os.environ | {"HOME": folder, "KUBECONFIG": os.devnull, "CLOUDSDK_CONFIG": folder}
    words = [*command[:3], "--dry-run", "--skip-validation", "--project-number=1", *command[3:]]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(words[:3])} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def _compared(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The same facts of both manifests."""

    def facts(tree: dict[str, Any]) -> dict[str, Any]:
        (one,) = tree["spec"]["replicatedJobs"]
        job, pod = one["template"]["spec"], one["template"]["spec"]["template"]["spec"]
        (codes,) = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if rule.get("onExitCodes")]
        return {
            "slices": one["replicas"],
            "hosts": job["completions"],
            "nodes": {name: value for name, value in pod["nodeSelector"].items() if "gke-tpu" in name},
            "chips of a host": pod["containers"][0]["resources"]["limits"],
            "grace period": pod["terminationGracePeriodSeconds"],
            "restarts": tree["spec"]["failurePolicy"]["maxRestarts"],
            "operator": codes["operator"],
            "exit codes but 127": len(set(codes["values"]) - {127} ^ set(RESTARTED)),
        }

    first, second = facts(theirs), facts(ours)
    return {name: (first[name], second[name]) for name in first}


def _what_bash_runs(manifest: dict[str, Any], folder: Path) -> tuple[list[str], str]:
    """Arguments of the trainer, the variable A and the config file, as xpk's container would start them."""
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    *_, script = pod["containers"][0]["command"]
    config = folder / "config.py"
    script = script.replace(f">{xpk.CONFIG} ", f">{config} ").replace("sleep 5", "sleep 0.1")
    note = "open(sys.argv[1], 'w').write(repr([*sys.argv[2:], os.environ['A']]))"
    fake = folder / "bioclip-jax"
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import os, sys; {note}" {folder}/words "$@"\n')
    fake.chmod(0o700)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", script], env=os.environ | {"PATH": path}, check=True, capture_output=True)
    words: list[str] = ast.literal_eval((folder / "words").read_text())
    return words, config.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
