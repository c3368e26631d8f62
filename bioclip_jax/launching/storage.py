"""How a bucket is mounted, so that a run finds in it what a disk would give it.

A run renames folders, and its hosts look for each other's files: nothing about files may be remembered, although Cloud
Storage FUSE does so for a minute, and for ever on large machines. Options as of
https://cloud.google.com/storage/docs/cloud-storage-fuse/config-file.
"""

from __future__ import annotations

OPTIONS = {
    "implicit-dirs": "true",  # folders that were uploaded, not made
    "metadata-cache:ttl-secs": "0",  # a file that another host wrote is seen at once
    "metadata-cache:negative-ttl-secs": "0",  # also one that was just looked for in vain
    "file-system:kernel-list-cache-ttl-secs": "0",
    "file-system:rename-dir-limit": "200000",  # files of a folder that is renamed, where the bucket is flat
}
CSI_DRIVER = "gcsfuse.csi.storage.gke.io"
CSI_ANNOTATIONS = {
    "gke-gcsfuse/volumes": "true",
    # A quarter of a core and 5 GiB of files that are being written, unless said otherwise: less than a save needs.
    "gke-gcsfuse/cpu-limit": "0",
    "gke-gcsfuse/memory-limit": "0",
    "gke-gcsfuse/ephemeral-storage-limit": "0",
}
"""0 is no limit, which GKE's Autopilot clusters do not have:
https://cloud.google.com/kubernetes-engine/docs/how-to/cloud-storage-fuse-csi-driver-sidecar"""


def csi_options(user: int = 0) -> str:
    """For the CSI driver's `mountOptions`; files belong to the user id that the container has."""
    options = [f"{name}:{value}" for name, value in OPTIONS.items() if name != "implicit-dirs"]
    owner = [f"uid={user}", f"gid={user}"] if user else []
    return ",".join(["implicit-dirs", *owner, *options])


def gcsfuse_flags(*, in_container: bool) -> tuple[str, ...]:
    """For the command line of gcsfuse. A container's files are read by another user than the one who mounts."""
    flags = ["-o", "allow_other"] if in_container else []
    for name, value in OPTIONS.items():
        section, _, option = name.rpartition(":")
        prefix = f"{section}-" if section == "metadata-cache" else ""
        flags.append(f"--{prefix}{option}={value}")
    return tuple(flags)
