"""The course's own training text: an endless, seeded stream of small documents in four kinds.

* ``story``: people, things and places in a world with a state. Things change hands and hiding
  places, and the questions at the end are answered from that state.
* ``record``: one JSON object a document, in one of three schemas; counts and totals are right.
* ``sums``: lines of arithmetic with right results.
* ``code``: a short Python function with calls and their results, as in an interactive session.

Document ``index`` of a stream depends on the stream's name and ``index`` alone, so the text can be
read from anywhere, and it is the same on every machine and Python version: standard library only,
and only those methods of ``random.Random`` whose results Python has kept since 3.2.

The text itself decides its side: documents whose hash falls into one eighth belong to the held-out
side, all others to the training side. The two can therefore share none, whatever the stream.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

KINDS = ("story", "record", "sums", "code")
_WEIGHTS = (8, 4, 4, 4)  # of 20: how often each kind is drawn
_HELD_OUT_EIGHTHS = 1

# A name decides the pronoun, so that later sentences have something to agree with.
_SHE = (
    "Ada Alba Anna Bea Clara Dora Edda Elin Emma Fay Greta Hanna Ida Ines Iris Jana Kaja Lena "
    "Lotta Mara Mina Nora Olga Rosa Selma Thea Vera Wilma Zita"
).split()
_HE = (
    "Adam Anton Axel Ben Bruno Carl Emil Erik Felix Finn Georg Hugo Ivan Jakob Jonas Karl Leo "
    "Linus Max Milan Nils Oskar Otto Paul Rolf Simon Theo Tom Viktor"
).split()
_PRONOUN = {name: "She" for name in _SHE} | {name: "He" for name in _HE}
_NAMES = tuple(_SHE + _HE)
_THINGS = (
    "apple ball basket bell book bottle bowl box bread brush bucket button candle card chair clock "
    "coat coin comb cup drum feather flag flower flute fork glove hammer hat horn jar kettle key "
    "kite knife ladder lamp lantern leaf letter lock map mask mirror mug nail needle orange paper "
    "pear pen pencil pillow plate purse ring rope ruler saw scarf shell shoe spoon stamp stone "
    "string sword ticket torch towel toy umbrella vase violin watch wheel whistle"
).split()
_COLOURS = "black blue brown golden green grey orange pink purple red silver white yellow".split()
_PLACES = (
    "attic bakery barn bridge café cellar church classroom cottage factory farm forest garage "
    "garden hall harbour hospital hotel kitchen library market meadow mill museum office orchard "
    "park school shed shop square stable station theatre tower valley village workshop yard"
).split()
_HIDING_PLACES = "bag barrel cabinet case chest crate cupboard drawer locker sack suitcase".split()
_TIMES = "morning afternoon evening Monday Tuesday Thursday Friday Sunday".split()
_FEELINGS = "angry bored calm cheerful curious glad hungry nervous proud sad sleepy tired".split()
_WEATHER = "cloudy cold dry foggy hot rainy snowy stormy sunny warm wet windy".split()
_JOBS = (
    "baker carpenter doctor driver farmer gardener guard nurse painter pilot sailor singer "
    "teacher tailor waiter writer"
).split()
_CITIES = (
    "Aarhus Bergen Bilbao Bremen Brno Gdansk Genoa Ghent Graz Krakow Leeds Lisbon Lyon Malmö "
    "Nantes Oslo Porto Riga Seville Split Tartu Turin Utrecht Vienna Zürich"
).split()
_ONSETS = "B Br D Dr F G Gr H K Kr L M N P R S St T V W".split()
_MIDDLES = "an ar el en er in ol or ul und ald ert im om ass ett ill onn".split()
_ENDS = "berg by dal er ev holm ing kin land mann ova ski son stad strom vik wood".split()


@dataclass(frozen=True)
class Document:
    """One document: its kind (one of ``KINDS``) and its text, without special tokens."""

    kind: str
    text: str


def documents(
    stream: str = "train", *, held_out: bool = False, kind: str | None = None, start: int = 0
) -> Iterator[Document]:
    """The documents of ``stream`` from number ``start`` on, without end.

    ``held_out`` chooses the side; ``kind`` restricts to one kind. Raises ValueError for a kind
    that does not exist.
    """
    index = start
    while True:
        yield document(stream, index, held_out=held_out, kind=kind)
        index += 1


def document(
    stream: str, index: int, *, held_out: bool = False, kind: str | None = None
) -> Document:
    """Document number ``index`` of ``stream``, on the side asked for."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"no kind {kind!r}; known are {', '.join(KINDS)}")
    rng = Random(f"inferlab/{stream}/{kind or 'mixed'}/{index}")
    chosen = kind or _weighted_kind(rng)
    while True:  # until the text falls on the right side; ends at once with probability 7/8 or 1/8
        text = _WRITERS[chosen](rng)
        if is_held_out(text) == held_out:
            return Document(chosen, text)


def is_held_out(text: str) -> bool:
    """Whether a document with this text belongs to the held-out side."""
    return hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 8 < _HELD_OUT_EIGHTHS


def corpus_hash(count: int, stream: str = "train", *, held_out: bool = False) -> str:
    """SHA-256 of the first ``count`` documents: equal on every machine, or the text changed."""
    digest = hashlib.sha256()
    for index in range(count):
        item = document(stream, index, held_out=held_out)
        digest.update(f"{item.kind}\0{item.text}\0".encode())
    return digest.hexdigest()


def _weighted_kind(rng: Random) -> str:
    at = rng.randrange(sum(_WEIGHTS))
    for kind, weight in zip(KINDS, _WEIGHTS, strict=True):
        if at < weight:
            return kind
        at -= weight
    raise AssertionError("weights do not add up")


def _surname(rng: Random) -> str:
    return rng.choice(_ONSETS) + rng.choice(_MIDDLES) + rng.choice(_ENDS)


# -- stories


class _World:
    """Who is where, and where each thing is; writes its events as sentences."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.people = rng.sample(_NAMES, 2 + rng.randrange(2))
        self.places = rng.sample(_PLACES, 3)
        self.things = rng.sample(_THINGS, 1 + rng.randrange(2))
        self.colour = {thing: rng.choice(_COLOURS) for thing in self.things}
        self.hiding = rng.choice(_HIDING_PLACES)
        self.hiding_at = self.places[0]
        self.at = {person: self.places[0] for person in self.people}
        # A thing is with a person, or in the hiding place.
        self.holder: dict[str, str] = {t: rng.choice(self.people) for t in self.things}
        self.subject = ""  # of the last sentence: only then may a pronoun stand for the name
        self.sentences: list[str] = []

    def say(self, subject: str, rest: str) -> None:
        """A sentence about a person, by a pronoun where the last one had the same subject."""
        if subject == self.subject and self.rng.randrange(3):
            opening = _PRONOUN[subject]
        else:
            opening = subject
        self.sentences.append(f"{opening} {rest}.")
        self.subject = subject

    def remark(self, sentence: str) -> None:
        self.sentences.append(sentence)
        self.subject = ""

    def begin(self) -> None:
        rng, people = self.rng, self.people
        when = f"On {word}" if (word := rng.choice(_TIMES))[0].isupper() else f"One {word}"
        names = " and ".join([", ".join(people[:-1]), people[-1]])
        self.remark(f"{when}, {names} were in the {self.places[0]}.")
        if rng.randrange(2):
            who, surname = rng.choice(people), _surname(rng)
            self.say(who, f"was a {rng.choice(_JOBS)} called {who} {surname}")
            self.surname: tuple[str, str] | None = (who, f"{who} {surname}")
        else:
            self.surname = None
        self.remark(f"There was a {self.hiding} in the {self.places[0]}.")
        for thing in self.things:
            colour = self.colour[thing]
            article = "an" if colour[0] in "aeiou" else "a"
            self.say(self.holder[thing], f"had {article} {colour} {thing}")

    def step(self) -> None:
        rng = self.rng
        thing = rng.choice(self.things)
        holder = self.holder[thing]
        if holder == self.hiding:
            near = [p for p in self.people if self.at[p] == self.hiding_at]
            if near:
                finder = rng.choice(near)
                self.say(finder, f"opened the {self.hiding} and took the {thing}")
                self.holder[thing] = finder
            else:
                self.walk(rng.choice(self.people), self.hiding_at)
            return
        action = rng.randrange(5)
        near = [p for p in self.people if p != holder and self.at[p] == self.at[holder]]
        if action < 2 and near:
            other = rng.choice(near)
            self.say(holder, f"gave the {thing} to {other}")
            self.holder[thing] = other
        elif action == 2 and self.at[holder] == self.hiding_at:
            self.say(holder, f"put the {thing} into the {self.hiding}")
            self.holder[thing] = self.hiding
        elif action == 3:
            feelings = rng.sample(_FEELINGS, 2)
            self.say(rng.choice(self.people), f"was {feelings[0]} but not {feelings[1]}")
        else:
            person = rng.choice(self.people)
            self.walk(person, rng.choice([p for p in self.places if p != self.at[person]]))

    def walk(self, person: str, place: str) -> None:
        self.say(person, f"went to the {place}")
        self.at[person] = place
        carried = [t for t in self.things if self.holder[t] == person]
        if carried:
            them = "her" if _PRONOUN[person] == "She" else "him"
            self.say(person, f"took the {' and the '.join(carried)} with {them}")
        elif not self.rng.randrange(3):
            self.remark(f"It was {self.rng.choice(_WEATHER)} there.")

    def questions(self) -> list[str]:
        """Every question the world as it is now can answer, with the answers, shuffled."""
        out = [f"Where is {p}? {_PRONOUN[p]} is in the {self.at[p]}." for p in self.people]
        if self.surname:
            out.append(f"What is the full name of {self.surname[0]}? It is {self.surname[1]}.")
        for thing in self.things:
            holder = self.holder[thing]
            out.append(f"What colour is the {thing}? It is {self.colour[thing]}.")
            if holder == self.hiding:
                where = f"It is in the {self.hiding} in the {self.hiding_at}."
                out.append(f"Where is the {thing}? {where}")
            else:
                out.append(f"Who has the {thing}? {holder} has it in the {self.at[holder]}.")
        self.rng.shuffle(out)
        return out


def _story(rng: Random) -> str:
    world = _World(rng)
    world.begin()
    for _ in range(2 + rng.randrange(4)):
        world.step()
    return "\n".join([" ".join(world.sentences), *world.questions()[: 3 + rng.randrange(4)]])


# -- records


def _person(rng: Random) -> dict[str, object]:
    name = rng.choice(_NAMES)
    surname = _surname(rng)
    things = rng.sample(_THINGS, 1 + rng.randrange(4))
    city = rng.choice(_CITIES)
    return {
        "type": "person",
        "name": f"{name} {surname}",
        "email": f"{name.lower()}.{surname.lower()}@{city.lower()}.example",
        "age": 18 + rng.randrange(70),
        "job": rng.choice(_JOBS),
        "city": city,
        "things": things,
        "count": len(things),
        "active": rng.randrange(2) == 1,
    }


def _order(rng: Random) -> dict[str, object]:
    things = rng.sample(_THINGS, 1 + rng.randrange(3))
    lines = [{"item": t, "quantity": 1 + rng.randrange(5), "price": 1 + rng.randrange(9)}
             for t in things]  # fmt: skip
    total = sum(line["quantity"] * line["price"] for line in lines)  # type: ignore[operator]
    return {
        "type": "order",
        "id": 1000 + rng.randrange(9000),
        "customer": f"{rng.choice(_NAMES)} {_surname(rng)}",
        "lines": lines,
        "total": total,
        "paid": rng.randrange(2) == 1,
    }


def _weather(rng: Random) -> dict[str, object]:
    low = rng.randrange(-9, 25)
    return {
        "type": "weather",
        "city": rng.choice(_CITIES),
        "day": rng.choice(_TIMES[3:]),
        "low": low,
        "high": low + 1 + rng.randrange(9),
        "sky": rng.choice(_WEATHER),
        "note": None if rng.randrange(2) else f"take the {rng.choice(_THINGS)}",
    }


def _record(rng: Random) -> str:
    make = rng.choice((_person, _order, _weather))
    return json.dumps(make(rng), ensure_ascii=False)


# -- sums


def _sum_line(rng: Random) -> str:
    kind = rng.randrange(6)
    if kind < 2:
        a, b = rng.randrange(100), rng.randrange(100)
        return f"{a} + {b} = {a + b}"
    if kind < 4:
        a, b = rng.randrange(100), rng.randrange(100)
        a, b = max(a, b), min(a, b)
        return f"{a} - {b} = {a - b}"
    a, b = rng.randrange(13), rng.randrange(13)
    return f"{a} * {b} = {a * b}" if kind == 4 or not b else f"{a * b} / {b} = {a}"


def _sums(rng: Random) -> str:
    return "\n".join(_sum_line(rng) for _ in range(6 + rng.randrange(9)))


# -- code: (name, parameter, body, argument -> value)

_Function = tuple[str, str, str, Callable[[Random], object], Callable[..., object]]


def _number_function(rng: Random) -> _Function:
    k = 2 + rng.randrange(8)

    def argument(r: Random) -> object:
        return r.randrange(20)

    return rng.choice(
        (
            (f"add_{k}", "n", f"return n + {k}", argument, lambda n: n + k),
            (f"subtract_{k}", "n", f"return n - {k}", argument, lambda n: n - k),
            (f"times_{k}", "n", f"return n * {k}", argument, lambda n: n * k),
            (f"is_above_{k}", "n", f"return n > {k}", argument, lambda n: n > k),
            (f"at_most_{k}", "n", f"return min(n, {k})", argument, lambda n: min(n, k)),
            (f"at_least_{k}", "n", f"return max(n, {k})", argument, lambda n: max(n, k)),
            ("is_even", "n", "return n % 2 == 0", argument, lambda n: n % 2 == 0),
            (
                f"step_at_{k}",
                "n",
                f"if n < {k}:\n        return 0\n    return 1",
                argument,
                lambda n: 0 if n < k else 1,
            ),
        )
    )


def _word_function(rng: Random) -> _Function:
    suffix = rng.choice(_ENDS)

    def argument(r: Random) -> object:
        return r.choice(_THINGS)

    return rng.choice(
        (
            ("first_letter", "word", "return word[0]", argument, lambda w: w[0]),
            ("last_letter", "word", "return word[-1]", argument, lambda w: w[-1]),
            ("length", "word", "return len(word)", argument, len),
            ("shout", "word", "return word.upper()", argument, str.upper),
            ("twice", "word", "return word + word", argument, lambda w: w + w),
            (f"add_{suffix}", "word", f'return word + "{suffix}"', argument, lambda w: w + suffix),
        )
    )


def _list_function(rng: Random) -> _Function:
    def argument(r: Random) -> object:
        return [r.randrange(10) for _ in range(2 + r.randrange(4))]

    return rng.choice(
        (
            ("total", "items", "return sum(items)", argument, sum),
            ("largest", "items", "return max(items)", argument, max),
            ("smallest", "items", "return min(items)", argument, min),
            ("in_order", "items", "return sorted(items)", argument, sorted),
            ("backwards", "items", "return items[::-1]", argument, lambda x: x[::-1]),
            (
                "count_above_4",
                "items",
                "count = 0\n    for item in items:\n        if item > 4:\n"
                "            count = count + 1\n    return count",
                argument,
                lambda x: sum(item > 4 for item in x),
            ),
        )
    )


def _code(rng: Random) -> str:
    family = rng.choice((_number_function, _number_function, _word_function, _list_function))
    name, parameter, body, argument, value = family(rng)
    lines = [f"def {name}({parameter}):", f"    {body}", ""]
    for _ in range(2 + rng.randrange(4)):
        given = argument(rng)
        lines += [f">>> {name}({given!r})", repr(value(given))]
    return "\n".join(lines)


_WRITERS: dict[str, Callable[[Random], str]] = {
    "story": _story,
    "record": _record,
    "sums": _sums,
    "code": _code,
}
