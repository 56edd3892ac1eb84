"""The embedded task: a customer's message -> one order record of six lines.

The keys and their order never change; every value stands in the message, the price with its currency spelt out (`45 euros` -> `45 EUR`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from assets import words
from assets.words import Money, Pool

INSTRUCTION = "Extract the order."

_GREETINGS = ["", "", "Hello,", "Good morning,", "Dear team,", "Hi,"]
_NAMES = ["this is {name}.", "my name is {name}.", "{name} here.", "it is {name} again.", "I am {name}."]
_SIGNATURES = ["Regards, {name}", "Best wishes, {name}", "Thank you, {name}", "Yours, {name}"]
_ORDERS = [
    "please send {count} {item} to {city}",
    "we need {count} {item} in {city}",
    "could you ship {count} {item} to our office in {city}",
    "I would like {count} {item} for our shop in {city}",
    "please deliver {count} {item} to our site in {city}",
    "our team in {city} needs {count} {item}",
    "put us down for {count} {item}, to be sent to {city}",
]
_DATES_INSIDE = [" by {date}", " before {date}", " no later than {date}"]
_DATES_APART = ["They must arrive by {date}.", "We expect them on {date}.", "The delivery date is {date}."]
_PRICES = [
    "The price is {price} each.",
    "We agreed on {price} each.",
    "Your offer was {price} a piece.",
    "We pay {price} per piece.",
]


@dataclass(frozen=True)
class Order:
    customer: str
    item: str
    quantity: str
    price: Money
    city: str
    due: str

    @property
    def record(self) -> str:
        return (
            f"customer: {self.customer}\nitem: {self.item}\nquantity: {self.quantity}\n"
            f"price: {self.price.coded}\ncity: {self.city}\ndue: {self.due}"
        )


def draw_order(rng: random.Random, pool: Pool) -> Order:
    return Order(
        customer=words.person(rng, pool),
        item=words.item(rng),
        quantity=words.count(rng),
        price=words.money(rng),
        city=rng.choice(words.CITIES),
        due=words.date(rng),
    )


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def write_message(rng: random.Random, order: Order) -> str:
    """One of thousands of ways to say it: greeting, name or signature, order, date inside or apart, price before or after."""
    signed = rng.random() < 0.4
    price = order.price.written if rng.random() < 0.7 else order.price.coded
    ask = rng.choice(_ORDERS).format(count=order.quantity, item=order.item, city=order.city)
    close = "?" if ask.startswith("could") else "."
    rest = [rng.choice(_PRICES).format(price=price)]
    if rng.random() < 0.6:
        ask += rng.choice(_DATES_INSIDE).format(date=order.due)
    else:
        rest.append(rng.choice(_DATES_APART).format(date=order.due))
        rng.shuffle(rest)
    sentences = [ask + close, *rest]
    if signed:
        sentences.append(rng.choice(_SIGNATURES).format(name=order.customer))
    else:
        sentences.insert(0, rng.choice(_NAMES).format(name=order.customer))
    greeting = rng.choice(_GREETINGS)
    parts = [_capital(sentence) for sentence in sentences]
    if greeting:
        parts[0] = f"{greeting} {sentences[0]}"
    return " ".join(parts)


def task_row(rng: random.Random, pool: Pool) -> dict[str, list[dict[str, str]]]:
    """One line of train.jsonl or eval.jsonl."""
    order = draw_order(rng, pool)
    return {
        "messages": [
            {"role": "user", "content": f"{INSTRUCTION}\n{write_message(rng, order)}"},
            {"role": "assistant", "content": order.record},
        ]
    }


def task_rows(seed: int, pool: Pool, count: int) -> list[dict[str, list[dict[str, str]]]]:
    """`count` different rows; row i depends on (seed, pool, i) only, but for the rare message that was drawn before."""
    rows: list[dict[str, list[dict[str, str]]]] = []
    seen: set[str] = set()
    index = 0
    while len(rows) < count:
        row = task_row(random.Random(f"{seed}/task/{pool}/{index}"), pool)
        index += 1
        message = row["messages"][0]["content"]
        if message not in seen:
            seen.add(message)
            rows.append(row)
    return rows
