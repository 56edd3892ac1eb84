"""`petrun data clean`: rows that pass the rules, each once, and none that an evaluation file holds."""

from __future__ import annotations

from petrun import console
from petrun.config.commands.data import CleanSettings
from petrun.config.effect import require_effect
from petrun.curation.cleaning import CleaningPlan, clean
from petrun.curation.languages import LanguageTeller
from petrun.curation.output import check_out, row_output
from petrun.curation.parts import PARTS, PartReader
from petrun.curation.reading import SKIP, RowFiles
from petrun.curation.rules import BITEXT, INSTRUCTIONS, RULES, Limits, rules_for
from petrun.errors import ConfigError, did_you_mean


def run(given: CleanSettings) -> None:
    """Judge every row, then write those that pass. Raises ConfigError, DataError, OutputError, SetupError."""
    plan = _plan(given)
    files = RowFiles(given.files, SKIP, given.encoding, plan.parts.columns)
    out = check_out(given.out, files, *given.against)
    settings = {
        "kind": plan.limits.kind,
        "rules": [rule.name for rule in plan.rules],
        "key": plan.key,
        "near": plan.near,
        "languages": list(given.languages),
        "min_characters": given.min_characters,
        "max_characters": given.max_characters,
        "max_ratio": given.max_ratio,
        "against": plan.against.digests() if plan.against is not None else [],
    }
    console.tell(f"rules for {plan.limits.kind}: {', '.join(rule.name for rule in plan.rules)}")
    with row_output(out, files, "clean", settings) as output:
        clean(files, plan, output, out.parent)


def _plan(given: CleanSettings) -> CleaningPlan:
    names = [rule.name for rule in RULES]
    for name in given.without:
        if name not in names:
            raise ConfigError(f"--without {name}: no such rule", hint=did_you_mean(name, names))
    if given.key not in PARTS:
        raise ConfigError(f"--key {given.key}: no such part of a row", hint=did_you_mean(given.key, PARTS))
    if not (given.near == 0 or 0.3 <= given.near < 1):
        raise ConfigError(f"--near {given.near:g}: a similarity from 0.3 to below 1, or 0 for exact duplicates alone")
    if given.max_ratio <= 1:
        raise ConfigError(f"--max-ratio {given.max_ratio:g}: a ratio above 1")
    if given.bitext and len(given.languages) not in (0, 2):
        raise ConfigError("--langs of bitext are two, the source's and the target's", hint="Example: --langs en,zh")
    tell = LanguageTeller() if given.languages and "language" not in given.without else None
    if tell is not None:
        tell.require_known("--langs", given.languages)
    limits = Limits(
        kind=BITEXT if given.bitext else INSTRUCTIONS,
        min_characters=given.min_characters,
        max_characters=given.max_characters,
        max_ratio=given.max_ratio,
        languages=given.languages,
        tell=tell,
    )
    rules = rules_for(limits, given.without)
    idle = set(given.without) - {rule.name for rule in rules_for(limits)}
    if idle:
        raise ConfigError(
            f"--without {', '.join(sorted(idle))}: not asked here anyway",
            hint="ratio, letters, numbers and urls need --bitext; script and language need --langs.",
        )
    parts = PartReader(source=given.source, target=given.target)
    for rule, field in (("ratio", "max_ratio"), ("short", "min_characters"), ("long", "max_characters")):
        if rule not in [each.name for each in rules]:
            require_effect(given, (field,), f"without the rule {rule}" + ", which --bitext has" * (rule == "ratio"))
    against = RowFiles(given.against, columns=parts.columns) if given.against else None
    return CleaningPlan(limits=limits, rules=rules, parts=parts, key=given.key, near=given.near, against=against)
