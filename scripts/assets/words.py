"""Closed word lists, and the rules that draw names, dates and amounts from a random stream.

Every word of a value is one token of the base's tokenizer. Full names fall into three disjoint pools by their own hash: a person of an
evaluation row occurs in no training row and in no pretraining document. Everything is a pure function of the `random.Random` that is
passed in.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

Pool = Literal["pretrain", "train", "eval"]


def _list(text: str) -> list[str]:
    return text.split()


FIRST_NAMES = _list("""Alice Amir Ana Anna Anton Beata Ben Bruno Carla Chen Clara David Diego Dina Elena Emil Emma Erik Eva Felix Fiona
Georg Grace Hana Hassan Helen Hugo Ida Igor Irene Ivan Jack Jan Joan Jonas Julia Karim Kate Kofi Laura Leo Lisa Lucas Luis Maria
Marta Mei Mina Nadia Nina Noah Nora Olga Oscar Paula Peter Priya Rosa Ruth Sara Simon Sofia Sven Tara Tom Vera Victor Wei Yara Zoe""")

SURNAMES = _list("""Abbott Adler Bauer Becker Bennett Berg Blake Brandt Carter Castro Chang Cohen Costa Cruz Dale Demir Diaz Dunn Eriksen
Ferrari Fischer Fox Garcia Gibson Gruber Haas Hansen Hart Hill Horvat Ito Jensen Joshi Kaya Keller Khan Kim Klein Kovac Lang Lee
Lopez Marino Mendes Moreau Moser Nagy Novak Okoro Olsen Park Patel Perez Popov Reed Ricci Romano Rossi Santos Sato Silva Singh Stone
Suzuki Tanaka Torres Vargas Vogel Wagner Walsh Weber Wolf Young Ziegler""")

CITIES = _list("""Athens Basel Bergen Berlin Bilbao Boston Bremen Cairo Cardiff Chicago Cork Dublin Geneva Ghent Graz Hamburg Helsinki
Istanbul Leeds Lima Lisbon London Lyon Madrid Miami Milan Munich Nairobi Oslo Oxford Paris Porto Prague Quito Riga Rome Seoul Seville
Turin Utrecht Vienna Warsaw York Zagreb Zurich""")

QUALITIES = _list("""black blue brown clear copper cotton dark flat glass green grey heavy large leather light long metal narrow orange
paper plain plastic red round short silver small soft steel thick thin white wide wooden yellow""")

THINGS = _list("""aprons badges bags baskets belts benches boots bottles bowls boxes brushes cables candles caps chairs clocks coats cups
curtains desks doors files folders forks frames gloves hats hooks jackets jars keys knives labels ladders lamps locks mugs nails
notebooks pans pens pipes plates pots ribbons ropes rugs screens screws shelves shirts signs spoons stools tables tapes tents tiles
towels trays tubes wheels windows""")

MONTHS = _list("January February March April May June July August September October November December")
WEEKDAYS = _list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
CURRENCIES = {"EUR": "euros", "USD": "dollars", "GBP": "pounds"}

DEPARTMENTS = _list("sales finance legal design support training research marketing security planning")
JOBS = _list(
    "analyst architect baker buyer chef cleaner clerk doctor driver editor engineer guard guide manager nurse painter pilot teacher"
)
DEVICES = _list("printer scanner laptop monitor router server phone tablet camera heater lift copier keyboard")
FAULTS = _list("broken slow noisy hot cold dirty locked lost wet loud stuck")
SUBJECTS = _list("budgets prices safety contracts holidays stock cleaning parking travel rent energy salaries")
EXPENSES = _list("taxi train hotel lunch dinner fuel stationery flight breakfast postage software")
FOODS = _list("Italian Indian Greek Thai French Turkish Spanish Mexican Chinese Japanese Polish")
VENUES = _list("restaurant pub cafe hotel bakery bar")
PLACES = _list(
    "Anchor Bridge Castle Crown Dolphin Eagle Fountain Garden Harbour Lion Mill Moon Orchard Palace River Rose Star Swan Tower"
)


@dataclass(frozen=True)
class Money:
    """Whole units of a currency."""

    units: int
    currency: str

    @property
    def coded(self) -> str:
        return f"{self.units} {self.currency}"

    @property
    def written(self) -> str:
        return f"{self.units} {CURRENCIES[self.currency]}"


def name_pool(name: str) -> Pool:
    """The one of the three sets that may use this full name: 70 % pretraining, 20 % training, 10 % evaluation."""
    bucket = hashlib.sha256(name.encode()).digest()[0] % 10
    return "eval" if bucket == 0 else "train" if bucket <= 2 else "pretrain"


def person(rng: random.Random, pool: Pool) -> str:
    while True:
        name = f"{rng.choice(FIRST_NAMES)} {rng.choice(SURNAMES)}"
        if name_pool(name) == pool:
            return name


def item(rng: random.Random) -> str:
    return f"{rng.choice(QUALITIES)} {rng.choice(THINGS)}"


def date(rng: random.Random) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"


def money(rng: random.Random) -> Money:
    return Money(rng.randint(2, 99), rng.choice(list(CURRENCIES)))


def count(rng: random.Random) -> str:
    return str(rng.randint(2, 99))


def every_word() -> list[str]:
    """Each word and number that a value may hold: the tokenizer must have them as single tokens."""
    lists = [
        FIRST_NAMES,
        SURNAMES,
        CITIES,
        QUALITIES,
        THINGS,
        MONTHS,
        WEEKDAYS,
        list(CURRENCIES),
        list(CURRENCIES.values()),
    ]
    lists += [DEPARTMENTS, JOBS, DEVICES, FAULTS, SUBJECTS, EXPENSES, FOODS, VENUES, PLACES]
    return [word for words in lists for word in words] + [str(number) for number in range(1, 100)]
