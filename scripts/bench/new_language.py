"""A new language for the embedded base: Chinese pieces, then training of their rows alone and a LoRA.

    python scripts/bench/new_language.py [--rows 2400] [--size 400] [--steps 200] [--seeds 1] [--out FOLDER]

The text is generated: Chinese sentences about orders, weather and journeys from a small grammar, so it may be shipped and is the same
everywhere. Held-out sentences share the grammar and not the sentence. Then, through the commands,

    petrun vocab train, petrun vocab merge            a base with Chinese pieces
    petrun train embedded/new-language --base B       LoRA and the new rows; with --algo lora, LoRA alone on both bases
    petrun eval                                       loss a token on held-out text

Printed: tokens per character, and loss per character (nats: loss a token times tokens, over characters), which compares vocabularies.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
BASE = ROOT / "petrun" / "assets" / "base"

WORDS = {
    "name": "王芳 李强 张敏 刘洋 陈静 杨帆 赵磊 周婷 吴刚 孙丽".split(),
    "place": "北京 上海 广州 成都 杭州 西安 武汉 南京 重庆 青岛".split(),
    "thing": "红色雨伞 蓝色钢笔 白色衬衫 绿色瓶子 黑色背包 木头椅子 玻璃杯子 羊毛围巾 皮革手套 竹子篮子".split(),
    "day": "星期一 星期二 星期三 星期四 星期五 星期六 星期日 明天 后天 下个月初".split(),
    "sky": "晴天 多云 小雨 大雨 大风 下雪 有雾".split(),
    "ride": "火车 飞机 汽车 轮船 地铁 自行车".split(),
    "unit": "件 个 箱 打 套".split(),
    "part": "早上 上午 中午 下午 傍晚 晚上".split(),
    "act": "开会 看电影 买东西 拜访朋友 参观博物馆 喝茶 学习外语 爬山".split(),
}
PATTERNS = (
    "{name}订购了{n}{unit}{thing}，请在{day}以前送到{place}。",
    "您好，我是{name}，请给我们在{place}的办公室寄{n}{unit}{thing}，每{unit}{price}元。",
    "{day}{part}{place}{sky}，气温{n}度，出门请注意安全。",
    "{name}{day}坐{ride}从{place}到{place2}，{part}{hour}点出发。",
    "{place}的{thing}很便宜，一{unit}只要{price}元，{name}买了{n}{unit}。",
    "{day}{part}我们和{name}一起{act}，然后坐{ride}回家。",
    "因为{place}{sky}，{name}的{ride}晚了{n}分钟，{part}才到。",
    "如果{day}{sky}，我们就不去{place}{act}了，改在家里{act2}。",
)


def sentences(count: int, seed: int) -> list[str]:
    """Draw different sentences of the grammar."""
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        chosen = {kind: draw.choice(words) for kind, words in WORDS.items()}
        numbers = {"n": draw.randint(2, 99), "price": draw.randint(3, 200), "hour": draw.randint(1, 12)}
        others = {"place2": draw.choice(WORDS["place"]), "act2": draw.choice(WORDS["act"])}
        found[draw.choice(PATTERNS).format(**chosen, **numbers, **others)] = None
    return list(found)


@dataclass(frozen=True, kw_only=True)
class Side:
    """A base with or without Chinese pieces, trained in one way."""

    name: str
    base: str
    train: tuple[str, ...] | None
    """Options of `petrun train`; None: as it is."""


LORA = ("--algo", "lora", "--rank", "8", "--alpha", "16", "--target", "all-linear")
"""The recipe's own, without the rows."""
SIDES = (
    Side(name="base as it is", base="base", train=None),
    Side(name="longer base, untrained", base="longer", train=None),
    Side(name="base, LoRA", base="base", train=LORA),
    Side(name="longer base, LoRA", base="longer", train=LORA),
    Side(name="longer base, LoRA and new rows", base="longer", train=()),
)


def petrun(*line: str) -> str:
    print("petrun", *line, file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "petrun", *line], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def write_texts(path: Path, texts: list[str]) -> Path:
    """Write rows of plain text. Each begins with a line break, a token of its own: the first token of a row is not predicted, and one
    of a longer vocabulary would hide more characters.
    """
    lines = (json.dumps({"text": f"\n{text}"}, ensure_ascii=False) + "\n" for text in texts)
    path.write_text("".join(lines), encoding="utf-8")
    return path


@dataclass(kw_only=True)
class Experiment:
    """The files of one measurement."""

    folder: Path
    train: Path
    held_out: Path
    characters: int
    steps: int

    def base(self, name: str) -> Path:
        return BASE if name == "base" else self.folder / name

    def grow(self, size: int) -> str:
        """Write the longer base. Returns the line on tokens per character."""
        tokenizer = self.folder / "zh"
        petrun("vocab", "train", str(self.train), "--base", str(BASE), "--size", str(size), "--out", str(tokenizer))
        said = petrun(
            "vocab", "merge", "--base", str(BASE), "--tokenizer", str(tokenizer),
            "--out", str(self.base("longer")), "--held-out", str(self.held_out),
        )  # fmt: skip
        return next(line for line in said.splitlines() if line.startswith("tokens per character"))

    def loss_per_character(self, side: Side, seed: int) -> float:
        """Train a side where it is to be trained, and score it on the held-out text."""
        base = str(self.base(side.base))
        given = ["--base", base, "--task", "lm", "--seq-len", "160"]
        if side.train is not None:
            out = self.folder / f"{side.name.replace(' ', '-').replace(',', '')}-{seed}"
            petrun(
                "train", "embedded/new-language", "--base", base, "--data", str(self.train), "--steps", str(self.steps),
                "--seed", str(seed), *side.train, "--out", str(out),
            )  # fmt: skip
            given = ["--base", base, "--delta", str(out)]
        scores = self.folder / "scores.json"
        petrun("eval", *given, "--data", str(self.held_out), "--metrics", "loss", "--out", str(scores))
        found = json.loads(scores.read_text(encoding="utf-8"))
        return float(found["loss"]) * self.predicted_tokens(base) / self.characters

    def predicted_tokens(self, base: str) -> int:
        """Count the tokens of the held-out rows without the first of each, and with its end of text."""
        tokenizer = Tokenizer.from_file(str(Path(base) / "tokenizer.json"))
        rows = [json.loads(line)["text"] for line in self.held_out.read_text(encoding="utf-8").splitlines()]
        return sum(len(row.ids) for row in tokenizer.encode_batch_fast(rows, add_special_tokens=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = args.out or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    texts = sentences(args.rows, 0)
    held_out = texts[: max(1, args.rows // 10)]
    experiment = Experiment(
        folder=folder,
        train=write_texts(folder / "train.jsonl", texts[len(held_out) :]),
        held_out=write_texts(folder / "held-out.jsonl", held_out),
        characters=sum(map(len, held_out)),
        steps=args.steps,
    )
    print(experiment.grow(args.size))
    print(f"\n| {'':32} | loss per character |\n|{'-' * 34}|{'-' * 20}|")
    for side in SIDES:
        seeds = range(args.seeds if side.train is not None else 1)
        found = [experiment.loss_per_character(side, seed) for seed in seeds]
        spread = f" ({min(found):.3f} to {max(found):.3f})" if len(found) > 1 else ""
        print(f"| {side.name:32} | {statistics.fmean(found):.3f}{spread:15} |", flush=True)


if __name__ == "__main__":
    main()
