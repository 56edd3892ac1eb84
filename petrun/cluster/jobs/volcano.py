"""A Volcano job for Kubernetes clusters with Ascend cards, as MindCluster's scheduler and device plugin take it: one pod a host.

The ring controller fills the ConfigMap rings-config-NAME with the rank table of the cards that the pods were given; it is mounted
in every pod. petrun's own start-up does not need it: hosts find one another by the name of the first pod.

Source: Volcano's batch.volcano.sh/v1alpha1 API; MindCluster's documentation of Volcano jobs on Atlas 800 servers.
"""

from __future__ import annotations

import shlex
from typing import Any

from petrun.cluster.jobs.pod import PORT, RING, pod, until_named
from petrun.cluster.jobs.scripts import strict
from petrun.cluster.jobs.submission import Submission, host_flags
from petrun.cluster.launch import CONFIG_ERROR

TABLE_FOLDER = "/user/serverid/devindex/config"
_TASK = "worker"


def volcano(job: Submission) -> list[dict[str, Any]]:
    """The documents of the manifest: the rank table's ConfigMap, and the Job."""
    labels = {RING: job.ring_controller}
    place = {"namespace": job.namespace} if job.namespace else {}
    table = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _table_name(job), **place, "labels": labels},
        "data": {"hccl.json": '{"status": "initializing"}\n'},
    }
    spec: dict[str, Any] = {
        "schedulerName": "volcano",
        "minAvailable": job.hosts,
        **({"queue": job.queue} if job.queue else {}),
        **_policies(job),
        "plugins": {"env": [], "svc": []},
        "tasks": [
            {
                "name": _TASK,
                "replicas": job.hosts,
                "policies": [{"event": "TaskCompleted", "action": "CompleteJob"}],
                "template": {"metadata": {"labels": {"app": job.name, **labels}}, "spec": _pod(job)},
            }
        ],
    }
    metadata = {"name": job.name, **place, "labels": labels}
    return [table, {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "metadata": metadata, "spec": spec}]


def _policies(job: Submission) -> dict[str, Any]:
    """A pod that is gone takes its ranks with it, and the others cannot go on: all are ended, or all start again.

    Volcano counts a restart when it begins, and gives up as soon as the count is maxRetry: N restarts need N + 1. Of several policies
    the first that fits holds; what a wrong setting ends is not started again.
    """
    events = ("PodFailed", "PodEvicted")
    if not job.restarts:
        return {"policies": [{"event": event, "action": "AbortJob"} for event in events]}
    never = {"exitCode": CONFIG_ERROR, "action": "AbortJob"}
    again = [{"event": event, "action": "RestartJob"} for event in events]
    return {"maxRetry": job.restarts + 1, "policies": [never, *again]}


def _table_name(job: Submission) -> str:
    return f"rings-config-{job.name}"


def _pod(job: Submission) -> dict[str, Any]:
    tables = {"rank-table": (_table_name(job), TABLE_FOLDER)}
    return {"restartPolicy": "Never", **pod(job, _script(job), container="petrun", configs=tables)}


def _script(job: Submission) -> str:
    """What a pod runs. The env plugin gives it its number, the svc plugin the first pod its name."""
    lines = strict(job)
    train = shlex.join(("petrun", "train", *job.command))
    port = str(job.port or PORT) if job.hosts > 1 or job.port else None
    if job.hosts > 1:
        lines += [
            "rank=${VC_TASK_INDEX:-${VK_TASK_INDEX:?}}",
            f"master={job.name}-{_TASK}-0.{job.name}",
            *until_named("master"),
        ]
    flags = host_flags(job, '"$rank"', '"$master"', port)
    return "\n".join([*lines, f"exec {train} {flags}"]) + "\n"
