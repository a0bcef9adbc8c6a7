"""What a microbatch tells the last range about its entries' sampling."""

from services.router.requests import Requests
from services.router.sampling_columns import sampling_columns
from tests.support.router import line


def requests_of(*lines):
    requests = Requests(lambda _: str)
    for each in lines:
        requests.add(each)
    return requests.all()


def test_without_grammars_nothing_is_said_about_any() -> None:
    assert sampling_columns(requests_of(line(0), line(1))).grammars is None


def test_each_grammar_travels_once_with_what_its_entries_have_generated() -> None:
    sampled = requests_of(
        line(0), line(1, grammar="one"), line(2, grammar="zwölf"), line(3, grammar="one")
    )
    sampled[1].append(7)
    sampled[3].append(8)
    sampled[3].append(9)

    grammars = sampling_columns(sampled).grammars

    assert grammars.entries.numpy().tolist() == [
        [1, sampled[1].request_id, 0, 1],
        [2, sampled[2].request_id, 1, 0],
        [3, sampled[3].request_id, 0, 2],
    ]
    assert grammars.tokens.numpy().tolist() == [7, 8, 9]
    assert grammars.texts.numpy().tobytes().decode() == "onezwölf"
    assert grammars.text_sizes.numpy().tolist() == [3, 6]
