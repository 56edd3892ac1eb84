"""`petrun plan`: say all that is known of a run before anything heavy is loaded, and which settings fit into so much memory."""

from __future__ import annotations

import json
from dataclasses import asdict

from petrun import console
from petrun.assets import default_recipe
from petrun.config.commands.train import PlanSettings
from petrun.config.load import load_run_config
from petrun.config.schema import RunConfig
from petrun.console import bytes_text
from petrun.errors import ConfigError
from petrun.parallel import context
from petrun.rehearsal.job import card_count
from petrun.training import run_folder
from petrun.training.planning.cost import Cluster, parse_cluster
from petrun.training.planning.cost_table import Cost, cost_of, cost_text, require_known_cost
from petrun.training.planning.fit import Proposal, parse_bytes, proposals
from petrun.training.planning.run_plan import RunPlan, plan_run
from petrun.training.planning.text import proposals_text, text_of
from petrun.training.setup.starting_delta import algo_to_train, read_start


def run(settings: PlanSettings) -> RunPlan:
    """Print the plan, as text or as one JSON object. Nothing is written, and no card is needed for a plan of Ascend cards.

    Raises PetrunError where the run could not work; what it would need stands in the plan, which is printed before.
    """
    limit = None if settings.fit is None else parse_bytes(settings.fit, "--fit")
    given = load_run_config(settings.recipe, settings.flags, settings.sets, embedded=default_recipe())
    start, config = read_start(given), given.config
    device = _device(config)
    cards = card_count(config, settings.cards) if settings.cards or _splits(config) else 1
    out, _ = run_folder.choose(config.out.dir, algo_to_train(given, start), config.out.format)
    cluster = _cluster(settings)
    if cluster is not None:
        require_known_cost(config)
    with console.silenced(settings.as_json):
        plan = plan_run(given, start, device, cards, out=out, limit=limit)
        found = [] if limit is None else proposals(plan, limit)
        cost = None if cluster is None else cost_of(plan, cluster, settings.throughput)
    if settings.as_json:
        console.print(_json(plan, found, limit, cost))
    else:
        console.print(text_of(plan))
        if cost is not None:
            console.print(f"\n{cost_text(cost)}")
        if limit is not None:
            console.print(f"\n{proposals_text(found, plan, limit)}")
    if plan.problem:
        raise ConfigError(f"the run could not work: {plan.problem}", hint=_way_out(plan, found, limit))
    return plan


def _device(config: RunConfig) -> context.Device:
    """Return the device of the plan. Ascend need not be here where it is asked for: a plan computes nothing."""
    target = "ascend" if config.device == "ascend" else context.find_target(config.device)
    if target == "cpu":
        return context.setup(config.device, config.model.dtype, config.train.loss_scale)
    return context.describe("ascend", config.model.dtype, config.train.loss_scale)


def _splits(config: RunConfig) -> bool:
    asked = config.parallel
    return asked.auto or asked.tp * asked.pp * (asked.dp or 1) > 1


def _way_out(plan: RunPlan, found: list[Proposal], limit: int | None) -> str:
    if found:
        return f"Give {found[0].flags}: {bytes_text(found[0].bytes)}."
    if limit is None and plan.available is not None and plan.needed is not None:
        return f"--fit {max(1, plan.available // 2**30)}G proposes settings that fit."
    return "Train less of it, or on more cards."


def _cluster(settings: PlanSettings) -> Cluster | None:
    """Return the cards of --on; None where no cost is asked for. Raises ConfigError."""
    if settings.on is None:
        flags = ("utilisation", "throughput", "peak", "price")
        idle = [f"--{flag}" for flag in flags if getattr(settings, flag) is not None]
        if idle:
            raise ConfigError(f"{', '.join(idle)}: says what cards do, and no cards are named", hint="--on 8x910b")
        return None
    if settings.throughput is not None and settings.utilisation is not None:
        raise ConfigError("--throughput contradicts --utilisation: each says what the cards do", hint="Give one.")
    return parse_cluster(settings.on, settings.peak, settings.utilisation, settings.price)


def _json(plan: RunPlan, found: list[Proposal], limit: int | None, cost: Cost | None) -> str:
    fit = None if limit is None else {"bytes": limit, "proposals": [asdict(each) for each in found]}
    costs = {} if cost is None else {"cost": cost.content()}
    return json.dumps({**plan.content(), "fit": fit, **costs}, indent=2, ensure_ascii=False)
