"""Choose the folder for the logs of a job's ranks: in its run folder, a folder that the user names, or a temporary one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from petrun.cluster.other_hosts.hosts import Hosts
from petrun.cluster.rank_table.start import TableStart
from petrun.cluster.ranks import Cluster
from petrun.config.schema import RunConfig
from petrun.tensors.atomic import output_error
from petrun.training import run_folder


@dataclass(frozen=True, kw_only=True)
class JobLogs:
    """The folder of the logs, and the run folder that they belong to."""

    folder: Path
    temporary: Path | None = None
    """The folder to remove when the job has ended well."""
    numbered_run: Path | None = None
    """A run folder that took its number for this job; None for one that the user named."""

    @property
    def rank_options(self) -> list[str]:
        """Options that tell a rank about the run folder."""
        return [] if self.numbered_run is None else ["--out", str(self.numbered_run)]


def make_job_logs(
    config: RunConfig,
    cluster: Cluster | TableStart,
    hosts: Hosts | None,
    *,
    resume: str | None,
    log_dir: str | None,
    keeps_nothing: bool,
) -> JobLogs:
    """Choose the folder, and make the run folder of a new job. `resume`: the run folder that the job resumes. `log_dir`: the user's
    choice. `keeps_nothing`: the job trains nothing, so that its logs are needed only where it fails.

    Raises OutputError for a run folder that cannot be used.
    """
    if resume is not None:
        logs = JobLogs(folder=Path(resume).expanduser() / run_folder.LOGS)
    else:
        logs = _in_run_folder(config, cluster, hosts, make=not keeps_nothing)
    if log_dir is not None:
        logs = replace(logs, folder=Path(log_dir).expanduser())
    elif keeps_nothing:
        temporary = _temporary()
        logs = replace(logs, folder=temporary, temporary=temporary)
    # On a disk that the hosts share, each counts its own attempts.
    return replace(logs, folder=logs.folder / f"host-{cluster.host_rank}") if cluster.hosts > 1 else logs


def _in_run_folder(config: RunConfig, cluster: Cluster | TableStart, hosts: Hosts | None, *, make: bool) -> JobLogs:
    out, _ = run_folder.choose(config.out.dir, config.algo, config.out.format)
    if not make:
        return JobLogs(folder=out.path / run_folder.LOGS)
    # All ranks and attempts share one folder, which takes its number now. Host 0 makes it before the others use it.
    if hosts is not None and cluster.host_rank > 0:
        hosts.exchange(None)
    shared = cluster.hosts > 1 and (hosts is None or cluster.host_rank > 0)
    out = (replace(out, new=False) if shared else out).create()
    if hosts is not None and cluster.host_rank == 0:
        hosts.exchange(None)
    return JobLogs(folder=out.path / run_folder.LOGS, numbered_run=None if config.out.dir else out.path)


def _temporary() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="petrun-logs-"))
    except OSError as error:
        raise output_error(Path(tempfile.gettempdir()), error) from error
