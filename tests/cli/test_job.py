"""`petrun job`: what it writes is parsed back, and run with stand-ins for the programs of the cluster."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from typer.testing import CliRunner

from petrun.cli.app import app
from petrun.cluster.jobs import table
from petrun.cluster.jobs.mounts import Mount, parse_mount
from petrun.cluster.jobs.pod import escape
from petrun.cluster.jobs.scheduler import Scheduler
from petrun.cluster.jobs.submission import parse_memory, parse_time
from petrun.errors import ConfigError, OutputError
from tests.conftest import ROOT

# Everything that a shell, a YAML file or Kubernetes could read as something else.
AWKWARD = [
    "--rank",
    "8",
    "--out",
    '/work/it\'s $(id) $$ `id` "x" \\ #;&|\n  - a: b',
    "--set",
    "data.template=${HOME} $(RANK) *",
]
# CANN's set_env.sh appends to variables that nobody has set.
SET_ENV = 'export PYTHONPATH="/cann:$PYTHONPATH"'
VOLCANO = ["--to", "volcano", "--image", "registry/petrun:1", "--mount", "pvc/results:/work"]


def job(*arguments):
    done = CliRunner().invoke(app, ["job", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def flags(hosts, rank, address, port=None):
    """What petrun adds for one host of a job with 8 cards a host."""
    added = ["--cards", str(8 * hosts)]
    added += ["--hosts", str(hosts), "--host-rank", str(rank), "--master-addr", address] if hosts > 1 else []
    return added + (["--master-port", str(port)] if port else [])


@pytest.fixture
def cluster(tmp_path):
    """Run a script where petrun prints its arguments, NUL between them, and Slurm and the name service are three lines each."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    programs = {
        "petrun": "printf '%s\\0' \"$@\"",
        "srun": "[[ $1 == --kill-on-bad-exit=1 ]] || exit 9\nwhile [[ $1 == --* ]]; do shift; done\n"
        '[[ -z ${FAILS:-} ]] || exit "$FAILS"\nfor n in 0 1; do SLURM_NODEID=$n "$@" || exit; printf "\\n--\\n"; done',
        "scontrol": 'if [[ $1 == requeue ]]; then echo "$@"; exit; fi\n'
        '[[ "$*" == "show hostnames node[1-2]" ]] || exit 9\nprintf "node1\\nnode2\\n"',
        "getent": '[[ "$*" == "hosts "* ]]',
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)

    def run(text, *arguments, **environment):
        assert subprocess.run(["bash", "-n"], input=text, text=True, timeout=60).returncode == 0
        path = {"PATH": f"{folder}:{os.environ['PATH']}"}
        command = ["bash", "-c", text, "script", *arguments]
        done = subprocess.run(command, env={**path, **environment}, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return run


def called(output):
    """The arguments of every petrun that a script started."""
    return [one.split("\0")[:-1] for one in output.split("\n--\n") if one]


def as_kubernetes_reads(text, variables):
    """The documented expansion of a container's command: $(NAME), and $$ for $."""
    out, at = "", 0
    while at < len(text):
        if text[at : at + 2] == "$$":
            out, at = out + "$", at + 2
        elif text[at : at + 2] == "$(" and ")" in text[at:]:
            end = text.index(")", at)
            name = text[at + 2 : end]
            out, at = out + variables.get(name, f"$({name})"), end + 1
        else:
            out, at = out + text[at], at + 1
    return out


def test_slurm(cluster, tmp_path):
    out = tmp_path / "job.sh"
    options = ["--hosts", 2, "--cards", 16, "--queue", "npu", "--time", "36h", "--memory", "512Gi", "--cpus", 96]
    options += ["--name", "tune-1", "--setup", SET_ENV, "--gres", "ascend", "--workdir", "/home/me"]
    assert f"sbatch {out}" in job("--to", "slurm", *options, "--out", out, "--", *AWKWARD).stdout
    text = out.read_text()
    directives = dict(
        line[8:].removeprefix("--").split("=") for line in text.splitlines() if line.startswith("#SBATCH ")
    )
    assert directives == {
        "job-name": "tune-1",
        "nodes": "2",
        "ntasks-per-node": "1",
        "gres": "ascend:8",
        "cpus-per-task": "96",
        "mem": "512G",
        "partition": "npu",
        "time": "1-12:00:00",
        "chdir": "/home/me",
        "output": "tune-1-%j.log",
        "signal": "TERM@60",
    }
    assert "srun --kill-on-bad-exit=1 --cpus-per-task=96 bash" in text
    assert "--cpus was not given" not in text
    # Directives behind the first command are not read.
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash" and all(line.startswith("#") for line in lines[: 2 + len(directives)])
    code, output, errors = cluster(text, SLURM_JOB_NODELIST="node[1-2]", SLURM_JOB_ID="123456")
    assert code == 0, errors
    assert called(output) == [["train", *AWKWARD, *flags(2, rank, "node1", 23456)] for rank in (0, 1)]
    done = job("--to", "slurm", "--cards", 8, "--", "--rank", "8")
    code, output, errors = cluster(done.stdout)
    assert (code, called(output)[0]) == (0, ["train", "--rank", "8", *flags(1, 0, "")]), errors
    # Many sites give one core to a task that asks for none, and eight ranks would share it.
    assert (
        "\n#SBATCH --cpus-per-task=64\n" in done.stdout
        and "srun --kill-on-bad-exit=1 --cpus-per-task=64 " in done.stdout
    )
    assert "--cpus was not given: 64 cores of each host are asked for" in done.stderr


def test_slurm_puts_a_job_that_failed_back_into_the_queue(cluster):
    """As often as asked, but not for a wrong setting; what the tasks were told stays as it was typed."""
    line = ["--to", "slurm", "--hosts", 2, "--cards", 16, "--restarts", 3, "--", *AWKWARD]
    text = job(*line).stdout
    assert "\n#SBATCH --requeue\n" in text and "\n#SBATCH --open-mode=append\n" in text
    assert text.index("#SBATCH --requeue") < text.index("set -euo pipefail")
    where = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "123456"}
    code, output, errors = cluster(text, **where)
    assert code == 0 and "requeue" not in output, errors
    assert called(output) == [["train", *AWKWARD, *flags(2, rank, "node1", 23456)] for rank in (0, 1)]
    for fails, count, again in ((1, None, True), (143, "2", True), (137, "3", False), (2, None, False)):
        told = {"FAILS": str(fails)} | ({"SLURM_RESTART_COUNT": count} if count else {})
        code, output, errors = cluster(text, **where, **told)
        assert code == fails and output.endswith("requeue 123456\n") == again, (fails, output, errors)
    assert "requeue" not in job(*line[:5], "--", *AWKWARD).stdout
    with pytest.raises(ConfigError, match="--restarts 3: the job needs --out"):
        job("--to", "slurm", "--cards", 8, "--restarts", 3, "--", "--rank", "8")
    with pytest.raises(ConfigError, match="--restarts -1: must be between"):
        job("--to", "slurm", "--restarts", -1, "--", *AWKWARD)
    with pytest.raises(ConfigError, match="--restarts: nothing that --to shell has"):
        job("--to", "shell", "--restarts", 1, "--", *AWKWARD)


def volcano_end(spec, failures):
    """What becomes of a job, and how often it was started, as Volcano's controller decides of each failed pod in turn, whose exit code or
    event is given: the first policy that fits holds, and a restart is counted before the count is compared."""
    count = 0
    for failure in failures:
        key = "exitCode" if isinstance(failure, int) else "event"
        fits = [
            policy["action"]
            for policy in spec["policies"]
            if policy.get(key) == failure or (key == "exitCode" and policy.get("event") == "PodFailed")
        ]
        if fits[0] == "AbortJob":
            return "Aborted", count + 1
        count += 1
        if count >= spec["maxRetry"]:
            return "Failed", count
    return "Running", count + 1


def test_volcano_starts_a_job_again(cluster):
    line = [*VOLCANO, "--hosts", 2, "--cards", 16, "--restarts", 2, "--", "--rank", "8", "--out", "/work/tuned"]
    _, made = yaml.safe_load_all(job(*line).stdout)
    spec = made["spec"]
    assert spec["policies"] == [
        {"exitCode": 2, "action": "AbortJob"},
        {"event": "PodFailed", "action": "RestartJob"},
        {"event": "PodEvicted", "action": "RestartJob"},
    ]
    assert volcano_end(spec, [137, "PodEvicted"]) == ("Running", 3), "two restarts are three starts"
    assert volcano_end(spec, [137, 1, 1]) == ("Failed", 3)
    assert volcano_end(spec, [1, 2]) == ("Aborted", 2), "a wrong setting is not tried again"
    pod = spec["tasks"][0]["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "ranks start together or not at all"


def test_shell(cluster):
    options = ["--hosts", 3, "--cards", 24, "--master-addr", "10.0.0.1", "--setup", SET_ENV]
    text = job("--to", "shell", *options, "--", *AWKWARD).stdout
    code, output, errors = cluster(text, "2")
    assert (code, called(output)) == (0, [["train", *AWKWARD, *flags(3, 2, "10.0.0.1")]]), errors
    for wrong in ([], ["3"], ["-1"], ["08"], ["0", "1"], ["1; id"]):
        code, output, errors = cluster(text, *wrong)
        assert code == 2 and output == "" and "HOST_RANK, from 0 to 2" in errors
    text = job("--to", "shell", "--cards", 8, "--master-port", 9000, "--", "petrun", "train", "--rank", "8").stdout
    assert called(cluster(text)[1]) == [["train", "--rank", "8", *flags(1, 0, "", 9000)]]


def test_volcano(cluster):
    options = [
        "--hosts",
        2,
        "--cards",
        16,
        "--name",
        "tune-1",
        "--queue",
        "default",
        "--time",
        "90m",
        "--namespace",
        "vcjob",
    ]
    options += ["--memory", "1T", "--cpus", 96, "--mount", "/data:/data:ro", "--setup", SET_ENV]
    options += ["--node-selector", "accelerator-type=module-910b-8"]
    table, made = yaml.safe_load_all(job(*VOLCANO, *options, "--", *AWKWARD).stdout)
    label = {"ring-controller.atlas": "ascend-910b"}
    metadata = {"name": "rings-config-tune-1", "namespace": "vcjob", "labels": label}
    assert (table["apiVersion"], table["kind"], table["metadata"]) == ("v1", "ConfigMap", metadata)
    assert yaml.safe_load(table["data"]["hccl.json"]) == {"status": "initializing"}
    assert (made["apiVersion"], made["kind"]) == ("batch.volcano.sh/v1alpha1", "Job")
    assert made["metadata"] == {**metadata, "name": "tune-1"}
    spec = made["spec"]
    fields = {"schedulerName", "minAvailable", "queue", "policies", "plugins", "tasks"}
    assert set(spec) == fields and (spec["schedulerName"], spec["minAvailable"], spec["queue"]) == (
        "volcano",
        2,
        "default",
    )
    assert spec["plugins"] == {"env": [], "svc": []}
    assert {p["event"]: p["action"] for p in spec["policies"]} == {"PodFailed": "AbortJob", "PodEvicted": "AbortJob"}
    (task,) = spec["tasks"]
    assert set(task) == {"name", "replicas", "policies", "template"} and (task["name"], task["replicas"]) == (
        "worker",
        2,
    )
    assert task["template"]["metadata"]["labels"] == {"app": "tune-1", **label}
    pod = task["template"]["spec"]
    (container,) = pod["containers"]
    resources = {"huawei.com/Ascend910": 8, "cpu": 96, "memory": "1Ti"}
    assert container["resources"] == {"requests": resources, "limits": resources}
    (cards,) = container["env"]
    assert cards == {
        "name": "ASCEND_VISIBLE_DEVICES",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['huawei.com/Ascend910']"}},
    }
    assert (container["image"], container["workingDir"]) == ("registry/petrun:1", "/work")
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"], pod["activeDeadlineSeconds"]) == (
        "Never",
        60,
        5400,
    )
    assert pod["nodeSelector"] == {"accelerator-type": "module-910b-8"}
    # The image runs as user 1000, whose group a claim is given.
    assert pod["securityContext"] == {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"}
    assert "runtimeClassName" not in pod
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    places = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert len(volumes) == len(pod["volumes"]) == len(places) and {m["name"] for m in places.values()} == set(volumes)

    def behind(path):
        mount = places[path]
        volume = {key: value for key, value in volumes[mount["name"]].items() if key != "name"}
        return volume, mount.get("readOnly", False)

    assert behind("/user/serverid/devindex/config") == ({"configMap": {"name": "rings-config-tune-1"}}, False)
    assert behind("/dev/shm") == ({"emptyDir": {"medium": "Memory"}}, False)
    assert behind("/work") == ({"persistentVolumeClaim": {"claimName": "results"}}, False)
    assert behind("/data") == ({"hostPath": {"path": "/data", "type": "Directory"}}, True)
    driver = "/usr/local/Ascend/driver"
    assert behind(driver) == ({"hostPath": {"path": driver, "type": "Directory"}}, True)
    shell, option, script = container["command"]
    assert (shell, option) == ("/bin/bash", "-c") and "args" not in container
    script = as_kubernetes_reads(script, {"VC_TASK_INDEX": "1", "RANK": "no"})
    code, output, errors = cluster(script, VC_TASK_INDEX="1")
    assert (code, called(output)) == (0, [["train", *AWKWARD, *flags(2, 1, "tune-1-worker-0.tune-1", 8118)]]), errors
    assert cluster(script, VK_TASK_INDEX="0")[0] == 0 and cluster(script)[0] != 0
    _, one = yaml.safe_load_all(job(*VOLCANO, "--cards", 8, "--runtime-class", "ascend", "--", "--rank", "8").stdout)
    assert one["spec"]["tasks"][0]["template"]["spec"]["runtimeClassName"] == "ascend"
    script = one["spec"]["tasks"][0]["template"]["spec"]["containers"][0]["command"][2]
    assert called(cluster(script)[1]) == [["train", "--rank", "8", *flags(1, 0, "")]]
    assert "namespace" not in one["metadata"] and "queue" not in one["spec"]


def test_ascend_job(cluster):
    """The fields of mindxdl.gitee.com/v1, and what the operator's ascendjob_validate.go refuses: another container than "ascend", a
    Scheduler of several pods, no Scheduler where there is more than one card."""
    target = ["--to", "ascendjob", *VOLCANO[2:]]
    options = [
        "--hosts",
        3,
        "--cards",
        24,
        "--name",
        "tune-1",
        "--queue",
        "default",
        "--namespace",
        "train",
        "--time",
        "90m",
    ]
    options += ["--memory", "1T", "--cpus", 96, "--node-selector", "accelerator-type=module-910b-8", "--setup", SET_ENV]
    service, made = yaml.safe_load_all(job(*target, *options, "--runtime-class", "ascend", "--", *AWKWARD).stdout)
    assert (made["apiVersion"], made["kind"], set(made)) == (
        "mindxdl.gitee.com/v1",
        "AscendJob",
        {"apiVersion", "kind", "metadata", "spec"},
    )
    ring = {"ring-controller.atlas": "ascend-910b"}
    assert made["metadata"] == {"name": "tune-1", "namespace": "train", "labels": {"framework": "mindspore", **ring}}
    spec = made["spec"]
    assert {key: value for key, value in spec.items() if key != "replicaSpecs"} == {
        "schedulerName": "volcano",
        "runPolicy": {"schedulingPolicy": {"minAvailable": 3, "queue": "default"}},
        "successPolicy": "AllWorkers",
    }
    replicas = spec["replicaSpecs"]
    assert {role: (one["replicas"], one["restartPolicy"]) for role, one in replicas.items()} == {
        "Scheduler": (1, "Never"),
        "Worker": (2, "Never"),
    }
    # petrun's hosts meet on one port and MindSpore's on another, which the operator's service would not pass on.
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert service["metadata"] == {"name": "tune-1", "namespace": "train"}
    labels = {role: one["template"]["metadata"]["labels"] for role, one in replicas.items()}
    named = service["spec"]["selector"].items()
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"] is True
    assert named <= labels["Scheduler"].items() and not named <= labels["Worker"].items()
    for one in replicas.values():
        assert ring.items() <= one["template"]["metadata"]["labels"].items()
        pod = one["template"]["spec"]
        assert "restartPolicy" not in pod, "the operator overwrites it, with a warning"
        assert (pod["runtimeClassName"], pod["securityContext"]["fsGroup"], pod["activeDeadlineSeconds"]) == (
            "ascend",
            1000,
            5400,
        )
        (term,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (own,) = term["labelSelector"]["matchExpressions"]
        assert (own["key"], own["values"], term["topologyKey"]) == ("job-name", ["tune-1"], "kubernetes.io/hostname")
        (container,) = pod["containers"]
        assert (container["name"], container["image"]) == ("ascend", "registry/petrun:1")
        resources = {"huawei.com/Ascend910": 8, "cpu": 96, "memory": "1Ti"}
        assert container["resources"] == {"requests": resources, "limits": resources}
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        script = as_kubernetes_reads(container["command"][2], {"RANK": "no"})
        given = {"MS_NODE_RANK": "2", "MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "24"}
        code, output, errors = cluster(script, **given)
        assert (code, called(output)) == (0, [["train", *AWKWARD, *flags(3, 2, "tune-1", 8118)]]), errors
        assert cluster(script)[0] != 0
        # What the operator sets would make petrun a rank.
        names = re.search(r"^unset (.*)$", script, re.MULTILINE)[1].split()
        assert set(names) >= {"MS_ROLE", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_NODE_RANK"}
    (one,) = yaml.safe_load_all(job(*target, "--cards", 8, "--", "--rank", "8").stdout)
    assert set(one["spec"]["replicaSpecs"]) == {"Scheduler"} and "namespace" not in one["metadata"]
    assert one["spec"]["runPolicy"]["schedulingPolicy"] == {"minAvailable": 1, "queue": "default"}
    pod = one["spec"]["replicaSpecs"]["Scheduler"]["template"]["spec"]
    assert "affinity" not in pod
    assert called(cluster(pod["containers"][0]["command"][2])[1]) == [["train", "--rank", "8", *flags(1, 0, "")]]


def test_kubernetes_reads_back_what_was_escaped():
    for text in ("$(A)", "$$", "$$(A)", "$A", "${A}", "$", "a$$$", "$($(A))", "$$$(A"):
        assert as_kubernetes_reads(escape(text), {"A": "no"}) == text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "pbs", "--", "--rank", "8"], "--to pbs: unknown"),
        (["--to", "slurm", "--name", "a; rm -rf /", "--"], "--name 'a; rm -rf /': must be"),
        (["--to", "slurm", "--name", "a\n#SBATCH --uid=0", "--"], "--name"),
        (["--to", "slurm", "--name", "$(id)", "--"], "--name"),
        ([*VOLCANO, "--name", 'a"\nkind: Pod', "--"], "--name"),
        (["--to", "slurm", "--queue", "a b", "--"], "--queue"),
        (["--to", "slurm", "--workdir", "/a b", "--"], "--workdir"),
        (["--to", "slurm", "--gres", "npu:8\n", "--"], "--gres"),
        (["--to", "shell", "--hosts", "2", "--cards", "2", "--master-addr", "a`id`", "--"], "--master-addr"),
        ([*VOLCANO, "--node-selector", "a", "--"], "--node-selector"),
        (["--to", "volcano", "--image", "a b", "--mount", "/a:/work", "--"], "--image"),
        ([*VOLCANO, "--mount", "data:/data", "--"], "--mount 'data:/data'"),
        ([*VOLCANO, "--mount", "/data:/work", "--"], "/work is mounted twice"),
        (["--to", "slurm", "--cards", "9", "--hosts", "2", "--"], "must be a multiple of --hosts 2"),
        (["--to", "slurm", "--cards", "0", "--"], "--cards 0"),
        (["--to", "slurm", "--hosts", "0", "--"], "--hosts 0"),
        (["--to", "slurm", "--time", "soon", "--"], "--time soon"),
        (["--to", "slurm", "--memory", "lots", "--"], "--memory lots"),
        (["--to", "slurm", "--image", "a", "--"], "--image: nothing that --to slurm has"),
        (["--to", "shell", "--time", "1h", "--"], "--time: nothing that --to shell has"),
        (["--to", "shell", "--hosts", "2", "--cards", "2", "--"], "needs --master-addr"),
        (["--to", "volcano", "--"], "needs --image"),
        (["--to", "volcano", "--image", "a", "--"], "gone with the pod"),
        ([*VOLCANO, "--", "--out", "/tmp/x"], "gone with the pod"),
        ([*VOLCANO, "--", "--out", "../x"], "gone with the pod"),
        (["--to", "slurm", "--hosts", "2", "--cards", "2", "--"], "needs --out"),
        (["--to", "slurm", "--", "--cards", "8"], "--cards after --"),
        (["--to", "slurm", "--", "--host-rank=1"], "--host-rank after --"),
        (["--to", "slurm", "--", "--algo", "loar"], "Did you mean lora"),
        (["--to", "slurm", "--", "--set", "optim.beat2=0.9"], "unknown key optim.beat2"),
        (["--to", "slurm", "--cards", "8", "--", "--parallel", "dp=3"], "the job has 8"),
        ([*VOLCANO, "--runtime-class", "a b", "--"], "--runtime-class 'a b'"),
        (["--to", "slurm", "--runtime-class", "a", "--"], "--runtime-class: nothing that --to slurm has"),
        (["--to", "ascendjob", *VOLCANO[2:], "--restarts", "1", "--", "--out", "/work/x"], "--restarts: nothing that"),
        ([*VOLCANO, "--", "--base", "/models/llama"], "--base /models/llama: lies in no --mount"),
        ([*VOLCANO, "--", "--base", "../llama"], "--base ../llama: lies in no --mount"),
        ([*VOLCANO, "--", "--data", "a.jsonl,/data/b.jsonl", "--base", "llama"], "--data /data/b.jsonl: lies in no"),
        ([*VOLCANO, "--", "--eval-data", "/data/b.jsonl", "--base", "llama"], "--eval-data /data/b.jsonl"),
        ([*VOLCANO, "--", "--model", "/code/net.py:make"], "--model /code/net.py: lies in no --mount"),
        ([*VOLCANO, "--", "--template", "/t/prompt.jinja", "--base", "llama"], "--template /t/prompt.jinja: lies in"),
        ([*VOLCANO, "--mount", "image:/models", "--", "--out", "/models/x"], "no --mount that can be written"),
    ],
)
def test_what_is_refused(arguments, words):
    if arguments[-1] == "--":
        arguments = [*arguments, "--rank", "8"]
    with pytest.raises(ConfigError) as caught:
        job(*arguments)
    assert words in str(caught.value)


def test_a_misspelt_flag_is_found_before_the_queue(tmp_path):
    done = job("--to", "slurm", "--out", tmp_path / "job.sh", "--", "--rnk", "8")
    assert done.exit_code == 2 and "No such option: --rnk" in done.output and not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_when_told(tmp_path):
    out = tmp_path / "job.sh"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        job("--to", "slurm", "--out", out, "--", "--rank", "8")
    assert out.read_text() == "mine"
    job("--to", "slurm", "--out", out, "--force", "--", "--rank", "8")
    assert out.read_text().startswith("#!/bin/bash")


def test_the_commands_of_the_documentation_run(tmp_path, monkeypatch):
    """Those that need nothing but themselves: every petrun job and petrun ranktable."""
    text = (ROOT / "docs" / "cluster.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^    petrun ((?:job|ranktable) .*)$", text, re.MULTILINE)
    # The overview leaves options out of its lines.
    lines = [line for line in lines if " ... " not in line]
    assert len(lines) == 6
    monkeypatch.chdir(tmp_path)
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line))
        assert done.exit_code == 0, (line, done.output, done.exception)
    assert {path.name for path in tmp_path.iterdir()} == {"start.sh", "hccl.json", "tune.sh", "tune.yaml"}


def test_what_a_pod_reads_may_lie_in_any_mount():
    line = ["--", "--base", "/models/llama", "--data", "/data/a.jsonl", "--out", "tuned"]
    mounts = ["--mount", "/data:/data:ro", "--mount", "image:/models"]
    _, made = yaml.safe_load_all(job(*VOLCANO, *mounts, *line).stdout)
    pod = made["spec"]["tasks"][0]["template"]["spec"]
    paths = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert "/data" in paths and "/models" not in paths, "what the image holds is not mounted over"


def test_the_heads_of_a_base_that_is_here_are_held_against_the_layout(tmp_path):
    """Under its own name, or in the host's folder of its mount; of one that is not here, only the cards are."""
    base = tmp_path / "models" / "llama"
    base.mkdir(parents=True)
    sizes = {"num_attention_heads": 12, "num_key_value_heads": 4, "num_hidden_layers": 2}
    sizes |= {"hidden_size": 96, "intermediate_size": 192, "vocab_size": 64, "max_position_embeddings": 64}
    (base / "config.json").write_text(json.dumps({"model_type": "llama", "rms_norm_eps": 1e-5, **sizes}))
    slurm = ["--to", "slurm", "--cards", 8]
    for tp, words in ((8, "tp=8: does not divide 12 attention heads"), (2, None)):
        line = ["--", "--base", base, "--parallel", f"tp={tp}", "--out", "/work/x"]
        pods = [*VOLCANO, "--cards", 8, "--mount", f"{tmp_path}/models:/models:ro"]
        there = ["--", "--base", "/models/llama", *line[3:]]
        for arguments in ([*slurm, *line], [*pods, *there]):
            if words is None:
                assert job(*arguments).exit_code == 0
                continue
            with pytest.raises(ConfigError) as caught:
                job(*arguments)
            assert words in str(caught.value) and "4 key/value heads" in str(caught.value)
    assert job(*slurm, "--", "--base", "/nowhere/llama", "--parallel", "tp=8").exit_code == 0


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_scripts_pass_shellcheck(tmp_path):
    line = ["--", *AWKWARD]
    made = [
        job("--to", "slurm", "--hosts", 2, "--cards", 16, "--restarts", 1, *line).stdout,
        job("--to", "shell", "--hosts", 2, "--cards", 16, "--master-addr", "10.0.0.1", *line).stdout,
    ]
    for target in ("volcano", "ascendjob"):
        *_, manifest = yaml.safe_load_all(job("--to", target, *VOLCANO[2:], "--hosts", 2, "--cards", 16, *line).stdout)
        spec = manifest["spec"]
        pods = spec.get("tasks") or [*spec["replicaSpecs"].values()]
        for one in pods:
            command = one["template"]["spec"]["containers"][0]["command"]
            made.append("#!/bin/bash\n" + as_kubernetes_reads(command[2], {}))
    for number, text in enumerate(made):
        path = tmp_path / f"{number}.sh"
        path.write_text(text)
        done = subprocess.run(["shellcheck", "--severity=warning", path], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


def test_units():
    assert [parse_time(text) for text in ("90m", "12h", "2d", "1-12:00:00", "00:01:30")] == [
        5400,
        43200,
        172800,
        129600,
        90,
    ]
    assert [parse_memory(text) for text in ("512G", "512Gi", "2T", "64000M")] == ["512G", "512G", "2T", "64000M"]
    assert parse_mount("/a:/b/") == Mount(source="/a", target="/b") and parse_mount("pvc/a:/b:ro") == Mount(
        source="a", target="/b", read_only=True, claim=True
    )
    assert parse_mount("image:/models/") == Mount(source="image", target="/models", read_only=True, in_image=True)
    for wrong in ("image:/", "image:/a:ro", "image:a", "/a", "/a:b", "/a:/", "/../a:/b", "pvc/A_:/b", "/a:/b:x"):
        with pytest.raises(ConfigError):
            parse_mount(wrong)


def test_a_scheduler_is_a_record_and_a_line_in_the_table(tmp_path, monkeypatch):
    """Given a scheduler that no other file knows, when it is in the table, then `petrun job` checks, writes and explains its jobs."""

    def refuse_many_hosts(job):
        if job.hosts > 1:
            raise ConfigError("--to toy: one host only")

    toy = Scheduler(
        name="toy",
        about="a line for a toy",
        options=frozenset({"--queue", "--gres"}),
        write=lambda job: f"toy {job.name} {job.queue} {' '.join(job.command)}\n",
        start=lambda job, path: f"toy-submit {path}",
        require=refuse_many_hosts,
        remark=lambda job: "toys are small",
    )
    monkeypatch.setitem(table.SCHEDULERS, "toy", toy)
    out = tmp_path / "job.toy"
    done = job("--to", "toy", "--name", "tune", "--queue", "fast", "--out", out, "--", "--rank", "8")
    assert out.read_text() == "toy tune fast --rank 8\n"
    assert f"start it with: toy-submit {out}" in done.stdout and "toys are small" in done.output
    for options, words in (
        (["--hosts", 2, "--cards", 2], "one host only"),
        (["--image", "a"], "--image: nothing that --to toy has"),
    ):
        with pytest.raises(ConfigError) as caught:
            job("--to", "toy", *options, "--", "--rank", "8", "--out", "x")
        assert words in str(caught.value)
    # The options that it declares are no longer common to all: a scheduler that does not declare them refuses them.
    with pytest.raises(ConfigError, match="--gres: nothing that --to shell has"):
        job("--to", "shell", "--gres", "npu", "--", "--rank", "8")
