"""What moving a state costs, beside the standard library's way of writing the same. Ratios, since machines differ."""

import json
import timeit
from dataclasses import asdict, dataclass

import pytest

from hotfd.state import Codec

pytestmark = pytest.mark.alone


@dataclass
class Ten:
    a: int = 1
    b: str = "some text"
    c: bytes = b"some bytes"
    d: float = 1.5
    e: bool = True
    f: int | None = None
    g: int = 77_777
    h: str = "more text"
    i: int = -3
    j: str = "end"


def best(function, number):
    """Return the least of five timings: what the work costs, less what else the machine did."""
    return min(timeit.repeat(function, number=number, repeat=5))


def test_an_object_of_ten_fields_costs_less_than_json_of_it():
    # Measured: about a fifth; the bound leaves room for a busy machine.
    codec, value = Codec.of(Ten), Ten()
    data = codec.encode(value)
    read = codec.reader(codec.schema)

    def by_json():
        plain = asdict(value)
        plain["c"] = plain["c"].decode()
        return Ten(**json.loads(json.dumps(plain)))

    ours = best(lambda: read(codec.encode(value)), 300)
    theirs = best(by_json, 300)
    assert read(data) == value
    assert ours < theirs / 2, f"{ours / theirs:.2f} of what json takes"


def test_a_large_dict_of_atoms_is_not_walked_entry_by_entry():
    codec = Codec.of(dict)
    value = {b"%d" % number: b"v%d" % number for number in range(100_000)}
    read = codec.reader(codec.schema)
    data = codec.encode(value)

    def walk():
        return {key: bytes(item) for key, item in value.items() if type(key) is bytes and type(item) is bytes}

    # Measured: about a fifth of the walk that does nothing else.
    assert best(lambda: codec.encode(value), 1) < 2 * best(walk, 1)
    assert read(data) == value


def test_one_large_integer_costs_a_careful_walk_of_the_rest_and_no_more():
    # Measured: about six times, since the second walk looks at every integer and every text.
    codec = Codec.of(list)
    plain = [[number, str(number)] for number in range(2_000)]
    ours = best(lambda: codec.encode([*plain, 2**70]), 3)
    assert ours < 20 * best(lambda: codec.encode(plain), 3)
