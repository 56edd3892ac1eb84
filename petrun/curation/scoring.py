"""Score the rows of files: by the losses of a base, or by the vectors of a sentence encoder."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from petrun import console
from petrun.config.commands.data_scores import ScoreSettings
from petrun.config.options import Flags
from petrun.curation.difficulty import DIFFICULTIES, TOO_LONG, answer_pairs
from petrun.curation.parts import NO_PARTS, PartReader
from petrun.curation.reading import STOP, RowFiles
from petrun.curation.score_file import ScoredRows, place_of
from petrun.curation.similarity import nearest, pair_cosines, pair_margins, unit_vectors
from petrun.data.examples.example_set import ExampleSet
from petrun.errors import ConfigError
from petrun.inference.assembly import attach_delta, set_delta
from petrun.inference.interrupted_pass import done_of
from petrun.inference.reward import open_reward_model
from petrun.inference.sentences.encoder import SentenceEncoder, open_sentence_encoder
from petrun.inference.settings import InferenceSettings, resolve_settings
from petrun.inference.token_losses import token_losses
from petrun.tensors import Array
from petrun.typing import JsonObject

_CHUNK_ROWS = 4096
_ENCODE_ROWS = 32


def score_difficulty(given: ScoreSettings, out: Path) -> ScoredRows:
    """Score by the losses of the answers with and without their questions. `out`: what is done is kept beside it until all is.

    Raises: ConfigError, DataError, WeightsError.
    """
    how = DIFFICULTIES[given.by]
    flags = {**given.flags, "data.path": ("FILE", given.files)}
    settings = resolve_settings(flags, given.sets, delta=given.delta, alpha=given.alpha)
    tokenizer = settings.tokenizer
    if tokenizer is None:
        raise ConfigError(f"--by {given.by} needs a base with a tokenizer")
    if settings.base_info.decoder_start is not None:
        raise ConfigError(
            f"--by {given.by}: compares the losses of an answer behind its question and alone, and an encoder-decoder has no answer alone",
            hint="Give a base that continues texts.",
        )
    limit = settings.config.data.seq_len
    # One token more than is scored, so that a row that is cut is told from one that just fits.
    rows = _longer(settings, limit + 1).rows("instruct")
    context = [*tokenizer.prefix_ids, *(tokenizer.encode(given.direct, special=False) if given.direct else ())]
    specials = frozenset(tokenizer.special_ids | ({tokenizer.eos_id} if tokenizer.eos_id is not None else set()))
    pairs = answer_pairs(rows, limit, context, specials)
    loaded, delta = settings.load(rows)
    header = {
        "by": given.by,
        "formula": how.formula,
        "direction": "high is hard; above 1 the question makes the answer less likely",
        "base": str(settings.config.model.base or "the embedded base"),
        "base_digest": loaded.base_digest,
        "delta": given.delta,
        "delta_digest": delta.digest if delta is not None else None,
        "template": rows.template.name if rows.template is not None else None,
        "direct": given.direct,
        "seq_len": limit,
    }
    losses, counts = np.zeros(0), np.zeros(0, np.int64)
    if len(pairs.rows):
        if delta is not None:
            assembled = attach_delta(loaded, delta, settings.config.train.seed)
            set_delta(assembled, delta)
            loaded = assembled.loaded
        done = done_of(out)
        losses, counts = token_losses(settings, pairs.examples, loaded, done, delta, console.print)
    found: dict[int, JsonObject] = {i: {"score": None, "reason": reason} for i, reason in pairs.left_out.items()}
    for k, i in enumerate(pairs.rows.tolist()):
        tokens = int(counts[2 * k])
        given_loss, alone = losses[2 * k] / tokens, losses[2 * k + 1] / tokens
        found[i] = {
            "score": how.value(given_loss, alone),
            "loss_with_question": given_loss,
            "loss_alone": alone,
            "tokens": tokens,
        }
    return ScoredRows(header=header, rows=[{**_place(rows, i), **found[i]} for i in sorted(found)])


def _longer(settings: InferenceSettings, seq_len: int) -> InferenceSettings:
    data = settings.config.data.model_copy(update={"seq_len": seq_len})
    return replace(settings, config=settings.config.model_copy(update={"data": data}))


def _place(rows: ExampleSet, i: int) -> JsonObject:
    return {"file": int(rows.per_row["file"][i]), "line": int(rows.per_row["line"][i])}


def score_similarity(given: ScoreSettings, files: RowFiles) -> ScoredRows:
    """Score by cosines: of the two sides of each row, or of its question with those of other files. Raises ConfigError, DataError."""
    assert given.encoder is not None, "the command checks it"
    size = given.flags.get("eval.batch_size", ("", _ENCODE_ROWS))[1]
    encoder = open_sentence_encoder(given.encoder, of_encoder(given.flags), given.sets, int(str(size)))
    reader = PartReader(source=given.source, target=given.target)
    places, questions, answers = _encoded(files, reader, encoder, sides=not given.against)
    header: JsonObject = {
        "by": given.by,
        "direction": "high is alike",
        "encoder": given.encoder,
        "encoder_digest": encoder.digest,
    }
    if given.against:
        _, others, _ = _encoded(RowFiles(given.against, STOP), reader, encoder, sides=False)
        _, cosines = nearest(questions, others, 1)
        scores = cosines[:, 0].astype(np.float64)
        header |= {"formula": "highest cosine of the question with those of the files", "against": list(given.against)}
    elif given.margin:
        scores = pair_margins(questions, answers)
        header["formula"] = "margin of question and answer, ratio, 4 neighbours"
    else:
        scores = pair_cosines(questions, answers)
        header["formula"] = "cosine of question and answer"
    rows = [{**place, "score": float(score)} for place, score in zip(places, scores, strict=True)]
    return ScoredRows(header=header, rows=rows)


def score_reward(given: ScoreSettings, files: RowFiles, model: str) -> ScoredRows:
    """Score by the output of a reward model for question and answer. Raises ConfigError, DataError, ModelError, WeightsError."""
    flags, size = of_encoder(given.flags), given.flags.get("eval.batch_size", ("", _ENCODE_ROWS))[1]
    rewards = open_reward_model(model, flags, given.sets, int(str(size)))
    reader = PartReader(source=given.source, target=given.target)
    rows: list[JsonObject] = []
    all_rows = iter(files)
    while chunk := list(islice(all_rows, _CHUNK_ROWS)):
        parts = [reader(row) for row in chunk]
        both = [i for i, each in enumerate(parts) if each.question.strip() and each.answer.strip()]
        found = rewards([(parts[i].question, parts[i].answer) for i in both], console.progress("reward"))
        values: dict[int, float] = dict(zip(both, found.tolist(), strict=True))
        rows += [{**place_of(files, row), **_reward_entry(values.get(i))} for i, row in enumerate(chunk)]
    header: JsonObject = {
        "by": "reward",
        "formula": "output of the model's head for the pair of question and answer",
        "direction": "high is good",
        "base": model,
        "base_digest": rewards.digest,
        "longest": rewards.longest,
    }
    return ScoredRows(header=header, rows=rows)


def _reward_entry(value: float | None) -> JsonObject:
    if value is None:
        return {"score": None, "reason": NO_PARTS}
    return {"score": value} if value == value else {"score": None, "reason": TOO_LONG}


def _encoded(
    files: RowFiles, reader: PartReader, encoder: SentenceEncoder, *, sides: bool
) -> tuple[list[JsonObject], Array, Array]:
    """Return (place of each row, its question's vector, its answer's where `sides` asks for it), vectors of length 1."""
    places: list[JsonObject] = []
    questions: list[Array] = []
    answers: list[Array] = []
    rows = iter(files)
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        both = [reader(row) for row in chunk]
        places += [place_of(files, row) for row in chunk]
        # Plain text has an answer alone.
        questions.append(
            unit_vectors(encoder.encode([parts.question or parts.answer for parts in both], console.progress("encode")))
        )
        if sides:
            answers.append(unit_vectors(encoder.encode([parts.answer for parts in both], console.progress("encode"))))
    empty = np.zeros((0, 0), np.float32)
    return places, np.concatenate(questions), np.concatenate(answers) if answers else empty


def question_vectors(
    encoder: str,
    flags: Flags,
    files: RowFiles,
    reader: PartReader,
    *,
    sets: Sequence[str] = (),
    rows: Container[int] | None = None,
) -> Array:
    """Return the vector of each row's question, of plain text that of the text: (n, d), of length 1. `rows`: numbers of those that are
    wanted; None: all.

    Raises: ConfigError, DataError.
    """
    opened = open_sentence_encoder(encoder, flags, sets)
    parts = (reader(row) for i, row in enumerate(files) if rows is None or i in rows)
    found = []
    while chunk := list(islice(parts, _CHUNK_ROWS)):
        texts = [each.question or each.answer for each in chunk]
        found.append(unit_vectors(opened.encode(texts, console.progress("encode"))))
    return np.concatenate(found)


def of_encoder(flags: Flags) -> Flags:
    """Return those of the flags that an encoder reads."""
    return {key: value for key, value in flags.items() if key in ("device", "compile_cache")}
