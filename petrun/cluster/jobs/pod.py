"""Write the pod of a host for Kubernetes clusters with Ascend cards: the common part of a Volcano job and an AscendJob.

Source: MindCluster's documentation of jobs on Atlas 800 servers; Kubernetes' core/v1 Pod.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from petrun.cluster.jobs.mounts import WORKDIR, Mount
from petrun.cluster.jobs.submission import Submission
from petrun.errors import ConfigError
from petrun.typing import JsonObject

POD_OPTIONS = frozenset(
    {
        "--image", "--namespace", "--mount", "--node-selector", "--ring-controller", "--runtime-class",
        "--queue", "--time", "--memory", "--cpus",
    }
)  # fmt: skip
"""Options of `petrun job` that describe a job of pods."""
RESOURCE = "huawei.com/Ascend910"
RING = "ring-controller.atlas"
_PORT = 8118
"""The port where the hosts meet, unless the user gives one."""
_GROUP = 1000
"""The group of the image's user; without it a claim would be read-only."""
# The driver is the host's; the device plugin adds the cards' device files.
_DRIVER = (
    ("driver", "/usr/local/Ascend/driver", "Directory"),
    ("install-info", "/etc/ascend_install.info", "File"),
    ("dcmi", "/usr/local/dcmi", "Directory"),
    ("npu-smi", "/usr/local/bin/npu-smi", "File"),
)
_GIVEN_CARDS = f"metadata.annotations['{RESOURCE}']"
"""MindCluster's scheduler writes a pod's cards here; its container runtime reads the variable and adds them to the container."""


def require_image(job: Submission, name: str) -> None:
    """Raises ConfigError for a job of pods without an image."""
    if job.image is None:
        raise ConfigError(f"--to {name} needs --image", hint="Build and push one: see Dockerfile.ascend.")


def manifest(job: Submission, documents: list[JsonObject]) -> str:
    """Return the documents of a job as one YAML file."""
    from petrun.config.load import to_yaml

    return f"# petrun job {job.name}. Submit it with: kubectl apply -f FILE\n{to_yaml(documents)}"


def apply_command(job: Submission, path: str) -> str:
    """Return the command line that submits a manifest."""
    return f"kubectl apply -f {path}"


def master_port(job: Submission) -> str | None:
    """Return the port where the hosts meet, as text; None where one host chooses a free one."""
    return str(job.port or _PORT) if job.hosts > 1 or job.port else None


def until_named(variable: str) -> list[str]:
    """Return shell lines that wait until the host in this variable has an address: the name is known once its pod runs."""
    return [
        "# The name is known once the first pod runs.",
        f'for _ in {{1..300}}; do getent hosts "${variable}" > /dev/null && break; sleep 2; done',
    ]


def pod(job: Submission, script: str, *, container: str, configs: Mapping[str, tuple[str, str]]) -> JsonObject:
    """Return the spec of a pod that runs `script` in a container of this name. `configs`: volume -> its ConfigMap, and where it is
    mounted."""
    volumes: list[JsonObject] = [
        *({"name": name, "configMap": {"name": source}} for name, (source, _) in configs.items()),
        # Ranks of one host communicate through it; its default in a container is 64 MB.
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        *({"name": name, "hostPath": {"path": path, "type": kind}} for name, path, kind in _DRIVER),
        *(_volume(index, mount) for index, mount in enumerate(job.mounts) if not mount.in_image),
    ]
    mounts: list[JsonObject] = [
        *({"name": name, "mountPath": path} for name, (_, path) in configs.items()),
        {"name": "shm", "mountPath": "/dev/shm"},
        *({"name": name, "mountPath": path, "readOnly": True} for name, path, _ in _DRIVER),
        *(
            {"name": f"mount-{index}", "mountPath": mount.target, **({"readOnly": True} if mount.read_only else {})}
            for index, mount in enumerate(job.mounts)
            if not mount.in_image
        ),
    ]
    made: JsonObject = {
        # Kubernetes sets this group on volumes that support it; a folder of the host does not.
        "securityContext": {"fsGroup": _GROUP, "fsGroupChangePolicy": "OnRootMismatch"},
        "automountServiceAccountToken": False,
        # After SIGTERM the ranks save; then petrun ends those that have not.
        "terminationGracePeriodSeconds": job.grace_seconds + 30,
        "containers": [_container(job, script, container, mounts)],
        "volumes": volumes,
    }
    if job.runtime_class:
        made["runtimeClassName"] = job.runtime_class
    if job.time_seconds:
        made["activeDeadlineSeconds"] = job.time_seconds
    if job.node_labels:
        made["nodeSelector"] = dict(label.split("=", 1) for label in job.node_labels)
    return made


def _container(job: Submission, script: str, name: str, mounts: list[JsonObject]) -> JsonObject:
    resources: JsonObject = {RESOURCE: job.cards_per_host}
    if job.cpus:
        resources["cpu"] = job.cpus
    if job.memory:
        resources["memory"] = f"{job.memory}i"
    return {
        "name": name,
        "image": job.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/bash", "-c", escape(script)],
        "env": [{"name": "ASCEND_VISIBLE_DEVICES", "valueFrom": {"fieldRef": {"fieldPath": _GIVEN_CARDS}}}],
        "workingDir": job.workdir or WORKDIR,
        "resources": {"requests": resources, "limits": dict(resources)},
        "volumeMounts": mounts,
    }


def _volume(index: int, mount: Mount) -> JsonObject:
    if mount.claim:
        return {"name": f"mount-{index}", "persistentVolumeClaim": {"claimName": mount.source}}
    return {"name": f"mount-{index}", "hostPath": {"path": mount.source, "type": "Directory"}}


def escape(text: str) -> str:
    """Escape text for a container's command, where Kubernetes reads $(NAME) as a variable and $$ as one $."""
    return re.sub(r"\$(?=[$(])", "$$", text)
