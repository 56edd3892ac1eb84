"""An AscendJob for clusters with MindCluster's Ascend Operator: one pod a host, the first of them the job's Scheduler.

The operator wants a Scheduler where a MindSpore job has more than one card, gives its pods a service, and puts the variables of MindSpore's
dynamic cluster into every pod. petrun starts and names its ranks itself: it takes from them which host a pod is and where the first one is,
and hides them from its ranks.

Source: Ascend Operator of MindCluster, component/ascend-operator: pkg/api/v1/ascendjob_types.go (fields), pkg/controllers/v1/
ascendjob_validate.go (what is refused), env.go (variables), pod.go (a Worker's number is its index + 1 where the Scheduler has cards),
service.go (the Scheduler's service, which has the ports of its container); MindCluster's documentation of acjob.
"""

from __future__ import annotations

import shlex
from typing import Any

from petrun.parallel.job_pod import RING, pod
from petrun.parallel.job_scripts import strict
from petrun.parallel.submission import Submission, host_flags

_PORT = 2222
"""The operator's own, where a container names none."""
_ATTEMPTS = 16
"""Ports of the service: each attempt of --max-restarts meets on the one behind that of the last."""
_CONTAINER = "ascend"
_GIVEN = (
    "MS_ROLE",
    "MS_NODE_RANK",
    "MS_SCHED_HOST",
    "MS_SCHED_PORT",
    "MS_WORKER_NUM",
    "MS_LOCAL_WORKER",
    "MS_SERVER_NUM",
)


def ascend_job(job: Submission) -> dict[str, Any]:
    """The AscendJob, all of whose pods start at once or not at all."""
    labels = {RING: job.ring_controller}
    place = {"namespace": job.namespace} if job.namespace else {}
    replicas: dict[str, Any] = {"Scheduler": _replica(job, 1, labels)}
    if job.hosts > 1:
        replicas["Worker"] = _replica(job, job.hosts - 1, labels)
    policy: dict[str, Any] = {"minAvailable": job.hosts, **({"queue": job.queue} if job.queue else {})}
    return {
        "apiVersion": "mindxdl.gitee.com/v1",
        "kind": "AscendJob",
        "metadata": {"name": job.name, **place, "labels": {"framework": "mindspore", **labels}},
        "spec": {
            "schedulerName": "volcano",
            "runPolicy": {"schedulingPolicy": policy},
            "successPolicy": "AllWorkers",
            "replicaSpecs": replicas,
        },
    }


def _replica(job: Submission, count: int, labels: dict[str, str]) -> dict[str, Any]:
    first = job.port or _PORT
    ports = range(first, min(first + _ATTEMPTS, 65536)) if job.hosts > 1 else ()
    spec = pod(job, _script(job), container=_CONTAINER, configs={}, ports=ports)
    if job.hosts > 1:
        # Two pods on one host would be two hosts to petrun, and share its ports.
        own = {"key": "job-name", "operator": "In", "values": [job.name]}
        term = {"labelSelector": {"matchExpressions": [own]}, "topologyKey": "kubernetes.io/hostname"}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return {
        "replicas": count,
        "restartPolicy": "Never",
        "template": {"metadata": {"labels": labels}, "spec": spec},
    }


def _script(job: Submission) -> str:
    lines = strict(job)
    train = shlex.join(("petrun", "train", *job.command))
    port = str(job.port) if job.port else None
    if job.hosts > 1:
        lines += ["rank=${MS_NODE_RANK:?}", "master=${MS_SCHED_HOST:?}"]
        port = str(job.port or _PORT)
    lines.append(f"unset {' '.join(_GIVEN)}")
    flags = host_flags(job, '"$rank"', '"$master"', port)
    return "\n".join([*lines, f"exec {train} {flags}"]) + "\n"
