"""Write a Volcano job for Kubernetes clusters with MindCluster's scheduler and device plugin for Ascend cards: one pod for each host.

The ring controller fills the ConfigMap rings-config-NAME with the rank table of the pods' cards; it is mounted in every pod. petrun's own
start-up does not need it: hosts find one another by the name of the first pod.

Source: Volcano's batch.volcano.sh/v1alpha1 API; MindCluster's documentation of Volcano jobs on Atlas 800 servers.
"""

from __future__ import annotations

from petrun.cluster.exit_code import CONFIG_ERROR
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

TABLE_FOLDER = "/user/serverid/devindex/config"
_TASK = "worker"


def volcano_job(job: Submission) -> list[JsonObject]:
    """Return the documents of the manifest: the rank table's ConfigMap, and the Job."""
    labels = {RING: job.ring_controller}
    namespace = {"namespace": job.namespace} if job.namespace else {}
    table = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _table_name(job), **namespace, "labels": labels},
        "data": {"hccl.json": '{"status": "initializing"}\n'},
    }
    spec: JsonObject = {
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
    metadata = {"name": job.name, **namespace, "labels": labels}
    return [table, {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "metadata": metadata, "spec": spec}]


def _policies(job: Submission) -> JsonObject:
    """Return the job's policies: where a pod is lost the others cannot continue, so all are ended, or all start again.

    Volcano counts a restart when it begins, and gives up as soon as the count is maxRetry: N restarts need N + 1. Of several policies
    the first that matches applies; a job that a wrong setting ended is not started again.
    """
    events = ("PodFailed", "PodEvicted")
    if not job.restarts:
        return {"policies": [{"event": event, "action": "AbortJob"} for event in events]}
    never = {"exitCode": CONFIG_ERROR, "action": "AbortJob"}
    again = [{"event": event, "action": "RestartJob"} for event in events]
    return {"maxRetry": job.restarts + 1, "policies": [never, *again]}


def _table_name(job: Submission) -> str:
    return f"rings-config-{job.name}"


def _pod(job: Submission) -> JsonObject:
    tables = {"rank-table": (_table_name(job), TABLE_FOLDER)}
    return {"restartPolicy": "Never", **pod(job, _script(job), container="petrun", configs=tables)}


def _script(job: Submission) -> str:
    """Return the script of a pod. The env plugin sets the pod's number, the svc plugin the name of the first pod."""
    lines = strict_lines(job)
    if job.hosts > 1:
        lines += [
            "rank=${VC_TASK_INDEX:-${VK_TASK_INDEX:?}}",
            f"master={job.name}-{_TASK}-0.{job.name}",
            *until_named("master"),
        ]
    return "\n".join([*lines, train_command(job, '"$rank"', '"$master"', master_port(job))]) + "\n"


VOLCANO = Scheduler(
    name="volcano",
    about="a Kubernetes manifest for Volcano",
    options=POD_OPTIONS | {"--restarts"},
    write=lambda job: manifest(job, volcano_job(job)),
    start=apply_command,
    require=lambda job: require_image(job, "volcano"),
    in_container=True,
)
