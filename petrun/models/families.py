"""List the built-in model families. A new one is a file of its own and a line here."""

from __future__ import annotations

from petrun.models import bert, bloom, chatglm, gemma, glm, gpt2, llama, mixtral, opt, phi3, qwen3_moe, roberta, t5
from petrun.models.base import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        bert.FAMILY,
        gpt2.FAMILY,
        llama.FAMILY,
        opt.FAMILY,
        bloom.FAMILY,
        glm.FAMILY,
        chatglm.FAMILY,
        phi3.FAMILY,
        gemma.FAMILY,
        mixtral.FAMILY,
        qwen3_moe.FAMILY,
        roberta.FAMILY,
        t5.FAMILY,
    )
}


def family_of_type(model_type: object) -> Family | None:
    """Return the family for a value of config.json's model_type; None where there is none."""
    return next((family for family in FAMILIES.values() if model_type in family.model_types), None)


def tasks_of(family: Family) -> tuple[str, ...]:
    """Return the tasks that a base of this family, or of one of another's `others`, may be trained for: those of its own head where
    it has that of an `other`, else all."""
    first = FAMILIES.get(family.name, family)
    return first.every_task if family.tasks == first.tasks else family.tasks


def spell_families(task: str | None = None, word: str = "or") -> str:
    """Spell the names for a message: "bert, gpt2 or llama"; with a task, of those that can do it."""
    *first, last = [family.name for family in FAMILIES.values() if task is None or task in family.every_task]
    return f"{', '.join(first)} {word} {last}" if first else last
