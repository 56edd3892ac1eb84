"""Ask the tools of Ascend's software: CANN's version, npu-smi about the cards, hccn_tool about their network. Needs no MindSpore."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

_TOOL_SECONDS = 60.0


def cann_version(environment: Mapping[str, str]) -> str | None:
    """Return the version of CANN that this environment names; "unknown" where its file does not say, None where it names none."""
    home = environment.get("ASCEND_TOOLKIT_HOME") or environment.get("ASCEND_HOME_PATH")
    if not home or not (file := Path(home) / "version.cfg").is_file():
        return None
    named = re.search(r"^toolkit\w*_version\s*=\s*\[?([^\]\n]+)", file.read_text("utf-8", "replace"), re.MULTILINE)
    return named[1].strip() if named else "unknown"


def card_tools(devices: list[int], *, several_hosts: bool) -> list[tuple[str, bool, str]]:
    """Return (name, whether all is well, what it reports) of npu-smi, and with several hosts of the cards' network tool."""
    found = []
    smi = shutil.which("npu-smi")
    if smi is None:
        found.append(("npu-smi", True, "not on PATH"))
    else:
        code, output = run_tool([smi, "info"])
        health = re.findall(r"\|\s*(OK|Warning|Alarm|Critical|UNKNOWN)\s*\|", output)
        bad = [word for word in health if word != "OK" and word != "Warning"]
        text = f"{len(health)} cards, {health.count('OK')} OK" if code == 0 else f"exit code {code}: {_first(output)}"
        found.append(("npu-smi", code == 0 and not bad, text + (f", {', '.join(bad)}" if bad else "")))
    if several_hosts:
        found.append(_network(devices))
    return found


def _network(devices: list[int]) -> tuple[str, bool, str]:
    conf = Path("/etc/hccn.conf")
    found = f"/etc/hccn.conf {'found' if conf.is_file() else 'not here'}"
    tool = shutil.which("hccn_tool")
    if tool is None:
        return "hccn", True, f"{found}, hccn_tool not on PATH"
    links = {device: run_tool([tool, "-i", str(device), "-link", "-g"])[1] for device in devices}
    down = [device for device, output in links.items() if "UP" not in output.upper()]
    if down:
        return (
            "hccn",
            False,
            f"{found}; no link: " + "; ".join(f"card {device}: {_first(links[device])}" for device in down),
        )
    return "hccn", True, f"{found}; the links of cards {', '.join(map(str, devices))} are up"


def run_tool(command: list[str]) -> tuple[int, str]:
    """Return (exit code, what it printed) of a tool; (1, why) for one that cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TOOL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout + done.stderr


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "nothing was printed")


def visible_devices(environment: Mapping[str, str], cards: int) -> list[int]:
    """Return the numbers, as npu-smi counts them, of the first cards that this process may use."""
    given = [part.strip() for part in environment.get("ASCEND_RT_VISIBLE_DEVICES", "").split(",")]
    return [int(part) for part in given if part.isdecimal()][:cards] or list(range(cards))
