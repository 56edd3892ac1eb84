"""`petrun doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.commands.launch import LaunchOptions
from petrun.config.options import CLUSTER, option


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(LaunchOptions):
    """What the machine is examined for."""

    cards: int | None = option(
        "--cards",
        "Then start this many ranks, of all hosts together, and let them add a small sum: by HCCL on cards, on the CPU as processes.",
        CLUSTER,
    )
    hosts: int | None = option(
        "--hosts", "Hosts of that sum; on each of them the same command is run, at the same time. Default 1.", CLUSTER
    )
    out: str | None = option(
        "--out", "A folder that the hosts share, which they also check. Needed with --hosts.", CLUSTER
    )
    rank_table: str | None = option(
        "--rank-table",
        "See whether the servers that this HCCL rank table names answer, and by hccn_tool their cards. Nothing is started.",
        CLUSTER,
    )
    reach: tuple[str, ...] | None = option(
        "--reach",
        "See whether these hosts answer, names or addresses with commas between. Nothing is started.",
        CLUSTER,
        separated=True,
    )
    versions: bool = option(
        "--versions", "Print which versions go together, each with its source, and end.", default=False
    )

    device: str | None = option(
        "--device",
        "ascend: what is missing for training on cards blocks. Default: cards are examined where there are any.",
        choices=lambda: ("cpu", "ascend"),
    )
    as_json: bool = option("--json", "Print one JSON list.", default=False)

    @property
    def starts_ranks(self) -> bool:
        """Whether ranks are started for a sum."""
        return self.cards is not None or self.hosts is not None

    def __post_init__(self) -> None:
        from petrun.errors import ConfigError

        if (self.hosts or 1) > 1 and self.out is None:
            raise ConfigError(f"--hosts {self.hosts}: needs --out, a folder that the hosts share")
        used_by = {
            "--out": self.out is None,
            "--master-addr": self.master_addr is None,
            "--host-rank": self.host_rank is None or self.rank_table is not None,
            "--master-port": self.master_port is None or self.rank_table is not None or bool(self.reach),
        }
        idle = [flag for flag, good in used_by.items() if not good]
        if idle and not self.starts_ranks:
            raise ConfigError(
                f"{', '.join(idle)}: without effect here", hint="Give --cards N, the ranks of all hosts together."
            )
        if self.device not in (None, "cpu", "ascend"):
            raise ConfigError(f"--device {self.device}: must be cpu or ascend")
