"""Write an AscendJob for clusters with MindCluster's Ascend Operator: one pod for each host, the first of them the job's Scheduler.

The operator requires a Scheduler where a MindSpore job has more than one card, and sets the variables of MindSpore's dynamic cluster in
every pod. petrun starts and names its ranks itself: it reads the number of the host from these variables, and hides them from its ranks.
The operator's own service forwards one port of the first pod; petrun's hosts need more, so a headless service names that pod.

Source: Ascend Operator of MindCluster, component/ascend-operator: pkg/api/v1/ascendjob_types.go (fields), pkg/controllers/v1/
ascendjob_validate.go (what is refused), env.go (variables), pod.go (a Worker's number is its index + 1 where the Scheduler has cards),
service.go (the Scheduler's service); MindCluster's documentation of acjob.
"""

from __future__ import annotations

from petrun.cluster.jobs.pod import (
    POD_OPTIONS,
    RING,
    apply_command,
    manifest,
    master_port,
    pod,
    require_image,
    until_named,
)
from petrun.cluster.jobs.scheduler import Scheduler
from petrun.cluster.jobs.script_lines import strict_lines, train_command
from petrun.cluster.jobs.submission import Submission
from petrun.typing import JsonObject

_CONTAINER = "ascend"
_QUEUE = "default"
"""Volcano's own."""
_FIRST = {"petrun-host": "first"}
_GIVEN = (
    "MS_ROLE",
    "MS_NODE_RANK",
    "MS_SCHED_HOST",
    "MS_SCHED_PORT",
    "MS_WORKER_NUM",
    "MS_LOCAL_WORKER",
    "MS_SERVER_NUM",
)


def ascend_job(job: Submission) -> list[JsonObject]:
    """Return the documents of the manifest: with several hosts the first pod's name; and the AscendJob, whose pods start at once or not
    at all."""
    labels = {"app": job.name, RING: job.ring_controller}
    namespace = {"namespace": job.namespace} if job.namespace else {}
    replicas: JsonObject = {"Scheduler": _replica(job, 1, {**labels, **_FIRST})}
    if job.hosts > 1:
        replicas["Worker"] = _replica(job, job.hosts - 1, labels)
    # validateBasicInfo of the operator looks the queue up, and refuses an empty one.
    policy = {"minAvailable": job.hosts, "queue": job.queue or _QUEUE}
    made = {
        "apiVersion": "mindxdl.gitee.com/v1",
        "kind": "AscendJob",
        "metadata": {"name": job.name, **namespace, "labels": {"framework": "mindspore", RING: job.ring_controller}},
        "spec": {
            "schedulerName": "volcano",
            "runPolicy": {"schedulingPolicy": policy},
            "successPolicy": "AllWorkers",
            "replicaSpecs": replicas,
        },
    }
    if job.hosts == 1:
        return [made]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": job.name, **namespace},
        # The pods look up the name before the first of them is ready.
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"app": job.name, **_FIRST}},
    }
    return [service, made]


def _replica(job: Submission, count: int, labels: dict[str, str]) -> JsonObject:
    spec = pod(job, _script(job), container=_CONTAINER, configs={})
    if job.hosts > 1:
        # Two pods on one host would share its network card, and lose both where it fails.
        own = {"key": "job-name", "operator": "In", "values": [job.name]}
        term = {"labelSelector": {"matchExpressions": [own]}, "topologyKey": "kubernetes.io/hostname"}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return {
        "replicas": count,
        "restartPolicy": "Never",
        "template": {"metadata": {"labels": labels}, "spec": spec},
    }


def _script(job: Submission) -> str:
    lines = strict_lines(job)
    if job.hosts > 1:
        lines += ["rank=${MS_NODE_RANK:?}", f"master={job.name}", *until_named("master")]
    lines.append(f"unset {' '.join(_GIVEN)}")
    return "\n".join([*lines, train_command(job, '"$rank"', '"$master"', master_port(job))]) + "\n"


ASCEND_JOB = Scheduler(
    name="ascendjob",
    about="a Kubernetes manifest for MindCluster's Ascend Operator",
    options=POD_OPTIONS,
    write=lambda job: manifest(job, ascend_job(job)),
    start=apply_command,
    require=lambda job: require_image(job, "ascendjob"),
    in_container=True,
)
