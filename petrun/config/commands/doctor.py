"""`petrun doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.options import option


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """What the machine is examined for."""

    device: str | None = option(
        "--device",
        "ascend: what is missing for training on cards blocks. Default: cards are examined where there are any.",
        choices=lambda: ("cpu", "ascend"),
    )
    as_json: bool = option("--json", "Print one JSON list.", default=False)

    def __post_init__(self) -> None:
        from petrun.errors import ConfigError

        if self.device not in (None, "cpu", "ascend"):
            raise ConfigError(f"--device {self.device}: must be cpu or ascend")
