"""Examine Ascend's software and cards: CANN, driver and firmware against what goes together, and what npu-smi says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from petrun.cluster.card_tools import cann_version, card_tools
from petrun.cluster.doctor.finding import Finding, Verdict
from petrun.cluster.doctor.releases import DRIVERS, MADE_FOR, first_two, order

ROOT = Path("/usr/local/Ascend")
DEVICES = Path("/dev")
_SET_ENV = ("ascend-toolkit/set_env.sh", "cann/set_env.sh")


def cann(environment: Mapping[str, str], mindspore: str, taken: list[str], asked: bool, root: Path = ROOT) -> Finding:
    """Return whether CANN is here, and goes with MindSpore. `taken`: versions that the installed MindSpore names; `asked`: the user
    means to train on cards."""
    version = cann_version(environment)
    script = next((root / name for name in _SET_ENV if (root / name).is_file()), None)
    if version is None and script is not None:
        verdict: Verdict = "blocks" if asked else "note"
        return Finding(
            name="CANN",
            verdict=verdict,
            text=f"is under {root}, and this shell does not know it",
            mend=f"source {script}",
        )
    if version is None:
        made = MADE_FOR.get(mindspore, "")
        mend = f"install CANN {made} from hiascend.com, or take the image of Dockerfile.ascend".replace(
            "CANN  ", "CANN "
        )
        text = "is not here: petrun computes on the CPU"
        return Finding(name="CANN", verdict="blocks" if asked else "ok", text=text, mend=mend if asked else "")
    if taken and version != "unknown" and first_two(version) not in taken:
        mend = (
            f"install CANN {MADE_FOR.get(mindspore, taken[-1])}, or a MindSpore from 2.7.2 to 2.10 that takes this one"
        )
        text = f"{version} does not go with MindSpore {mindspore}, which takes {', '.join(taken)}"
        return Finding(name="CANN", verdict="blocks", text=text, mend=mend)
    made = f"; MindSpore {mindspore} was released with {MADE_FOR[mindspore]}" if mindspore in MADE_FOR else ""
    return Finding(name="CANN", verdict="ok", text=f"{version}{made}")


def driver(environment: Mapping[str, str], asked: bool, root: Path = ROOT) -> Iterator[Finding]:
    """Yield whether driver and firmware are here, and go with CANN."""
    version, firmware = (_version_of(root / part / "version.info") for part in ("driver", "firmware"))
    if version is None:
        if asked:
            mend = "install the driver of the cards (Ascend HDK) on the host; a container needs it mounted: see Dockerfile.ascend"
            yield Finding(
                name="driver", verdict="blocks", text=f"{root / 'driver/version.info'} is not here", mend=mend
            )
        return
    known = DRIVERS.get(first_two(cann_version(environment) or ""))
    if known is None:
        yield Finding(
            name="driver", verdict="ok", text=f"{version}; which one this CANN needs is not in petrun's table"
        )
    elif order(version) < order(known.least):
        text = f"{version} is older than {known.least}, the oldest that CANN {cann_version(environment)} names ({known.source})"
        yield Finding(
            name="driver", verdict="blocks", text=text, mend=f"install Ascend HDK {known.released} on the host"
        )
    else:
        yield Finding(name="driver", verdict="ok", text=f"{version}; this CANN was released with {known.released}")
    if firmware is not None:
        beside = f"; Ascend HDK {known.released} brings {known.firmware}" if known else ""
        yield Finding(name="firmware", verdict="ok", text=f"{firmware}{beside}")


def _version_of(file: Path) -> str | None:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^[Vv]ersion\s*=\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else None


def cards(asked: bool, devices: Path = DEVICES) -> Iterator[Finding]:
    """Yield which cards this process may open, and what npu-smi says of their health."""
    found = sorted(path.name for path in devices.glob("davinci*") if re.fullmatch(r"davinci\d+", path.name))
    if not found:
        mend = "in a container: --device /dev/davinci0 and what Dockerfile.ascend names; else see that the driver is loaded"
        text = f"no card: there is no {devices / 'davinci0'}"
        yield Finding(name="cards", verdict="blocks" if asked else "ok", text=text, mend=mend if asked else "")
    else:
        yield Finding(name="cards", verdict="ok", text=f"{len(found)}: {', '.join(found)}")
    for name, good, text in card_tools(list(range(len(found))), several_hosts=False):
        if good:
            missing = bool(found) and "not on PATH" in text
            yield Finding(
                name=name,
                verdict="note" if missing else "ok",
                text=text,
                mend="export PATH=$PATH:/usr/local/bin" if missing else "",
            )
        else:
            mend = "npu-smi info -t health -i 0    # and reset the card, or ask who runs the machine"
            yield Finding(name=name, verdict="blocks", text=text, mend=mend)
