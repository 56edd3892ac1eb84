"""Small events of working life (a meeting, a booking, a bill ...): each as sentences and as named values.

The pretraining documents show one event in several forms side by side; that is where the base learns to find a value in a sentence
and to write it elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from assets import orders, words


@dataclass(frozen=True)
class Field:
    names: tuple[str, ...]
    """Names that a record may use for it."""
    question: str
    value: str
    """The form in records and answers."""


@dataclass(frozen=True)
class Event:
    kind: str
    text: str
    fields: tuple[Field, ...]


def _paid(rng: random.Random, money: words.Money) -> str:
    return money.written if rng.random() < 0.7 else money.coded


def order(rng: random.Random) -> Event:
    drawn = orders.draw_order(rng, "pretrain")
    return Event(
        "order",
        orders.write_message(rng, drawn),
        (
            Field(("buyer", "client", "name"), "Who is the buyer?", drawn.customer),
            Field(("goods", "article", "product"), "What do they need?", drawn.item),
            Field(("count", "pieces", "number"), "How many?", drawn.quantity),
            Field(("cost", "each", "rate"), "What does one cost?", drawn.price.coded),
            Field(("place", "town", "where"), "Where do they go?", drawn.city),
            Field(("date", "day", "when"), "When?", drawn.due),
        ),
    )


def meeting(rng: random.Random) -> Event:
    host, guest = words.person(rng, "pretrain"), words.person(rng, "pretrain")
    date, room, subject = words.date(rng), words.count(rng), rng.choice(words.SUBJECTS)
    text = rng.choice(
        [
            f"{host} meets {guest} on {date} in room {room} to talk about {subject}.",
            f"On {date}, {host} and {guest} will speak about {subject}. The meeting is in room {room}.",
            f"Please book room {room} on {date}. {host} invites {guest}; they will discuss {subject}.",
        ]
    )
    return Event(
        "meeting",
        text,
        (
            Field(("host", "chair", "name"), "Who is the host?", host),
            Field(("guest", "with"), "Who is the guest?", guest),
            Field(("date", "day", "when"), "When?", date),
            Field(("room", "where"), "In which room?", room),
            Field(("subject", "topic"), "What is it about?", subject),
        ),
    )


def booking(rng: random.Random) -> Event:
    name, city, date = words.person(rng, "pretrain"), rng.choice(words.CITIES), words.date(rng)
    hotel, price, nights = rng.choice(words.PLACES), words.money(rng), words.count(rng)
    cost = _paid(rng, price)
    text = rng.choice(
        [
            f"{name} stays at the {hotel} in {city} for {nights} nights from {date}. A night costs {cost}.",
            f"We have booked {nights} nights for {name} in {city}, at the {hotel}, from {date}. The rate is {cost}.",
            f"The {hotel} in {city} expects {name} on {date} for {nights} nights at {cost} a night.",
        ]
    )
    return Event(
        "booking",
        text,
        (
            Field(("guest", "name", "customer"), "Who travels?", name),
            Field(("house", "stay"), "Which house?", hotel),
            Field(("place", "city"), "Which town?", city),
            Field(("nights", "quantity"), "How many nights?", nights),
            Field(("rate", "price"), "What is the rate?", price.coded),
            Field(("arrival", "due", "from"), "From when?", date),
        ),
    )


def expense(rng: random.Random) -> Event:
    name, what, team = words.person(rng, "pretrain"), rng.choice(words.EXPENSES), rng.choice(words.DEPARTMENTS)
    date, price, city = words.date(rng), words.money(rng), rng.choice(words.CITIES)
    cost = _paid(rng, price)
    text = rng.choice(
        [
            f"{name} from {team} paid {cost} for {what} in {city} on {date}.",
            f"On {date} I spent {cost} on {what} in {city}. {name}, {team}",
            f"Expense note of {name}, {team}: {what} in {city}, {cost}, on {date}.",
        ]
    )
    return Event(
        "expense",
        text,
        (
            Field(("name", "person"), "Who paid?", name),
            Field(("team", "unit"), "Which team?", team),
            Field(("item", "reason"), "What for?", what),
            Field(("sum", "price", "total"), "How much?", price.coded),
            Field(("city", "place"), "Where?", city),
            Field(("due", "day"), "When?", date),
        ),
    )


def ticket(rng: random.Random) -> Event:
    name, device, fault = words.person(rng, "pretrain"), rng.choice(words.DEVICES), rng.choice(words.FAULTS)
    room, date = words.count(rng), words.date(rng)
    text = rng.choice(
        [
            f"{name} in room {room} says that the {device} is {fault}, since {date}.",
            f"Since {date} the {device} in room {room} is {fault}. Please call {name}.",
            f"The {device} is {fault}. It stands in room {room}. Reported by {name} on {date}.",
        ]
    )
    return Event(
        "ticket",
        text,
        (
            Field(("reporter", "customer", "caller"), "Who reported it?", name),
            Field(("device", "item"), "Which device?", device),
            Field(("problem", "fault"), "What is wrong?", fault),
            Field(("room", "place"), "Which room?", room),
            Field(("opened", "due", "day"), "When?", date),
        ),
    )


def hire(rng: random.Random) -> Event:
    name, job, city = words.person(rng, "pretrain"), rng.choice(words.JOBS), rng.choice(words.CITIES)
    boss, date, team = words.person(rng, "pretrain"), words.date(rng), rng.choice(words.DEPARTMENTS)
    text = rng.choice(
        [
            f"{name} joins {team} in {city} as a {job} on {date} and reports to {boss}.",
            f"From {date} the {team} team in {city} has a new {job}: {name}. The manager is {boss}.",
            f"Welcome to {name}, our new {job} in {city} from {date}. {boss} leads the {team} team.",
        ]
    )
    return Event(
        "hire",
        text,
        (
            Field(("name", "person", "employee"), "Who is new?", name),
            Field(("job", "role"), "What is the job?", job),
            Field(("office", "city", "town"), "Which town?", city),
            Field(("manager", "lead"), "Who is the manager?", boss),
            Field(("team", "unit"), "Which team?", team),
            Field(("start", "date", "day"), "From when?", date),
        ),
    )


def venue(rng: random.Random) -> Event:
    name, near = rng.sample(words.PLACES, 2)
    kind, food, city = rng.choice(words.VENUES), rng.choice(words.FOODS), rng.choice(words.CITIES)
    price = words.money(rng)
    cost = _paid(rng, price)
    text = rng.choice(
        [
            f"The {name} is a {food} {kind} in {city}, near the {near}. A meal costs {cost}.",
            f"Near the {near} in {city} you find the {name}, a {kind} with {food} food and meals for {cost}.",
            f"For {food} food try the {name}, a {kind} in {city}. A meal is {cost}. It is near the {near}.",
        ]
    )
    return Event(
        "venue",
        text,
        (
            Field(("name", "venue"), "What is it called?", name),
            Field(("type", "kind"), "What kind is it?", kind),
            Field(("food", "kitchen"), "What food?", food),
            Field(("area", "city"), "Which town?", city),
            Field(("near", "by"), "What is near?", near),
            Field(("meal", "price"), "What is a meal?", price.coded),
        ),
    )


EVENTS: tuple[Callable[[random.Random], Event], ...] = (order, meeting, booking, expense, ticket, hire, venue)
