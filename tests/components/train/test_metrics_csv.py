import csv
import io
import json

from components.train.metrics import as_csv, as_jsonl
from tests.components.report.made import history


def test_the_csv_says_what_the_jsonl_says() -> None:
    results = history(3)
    rows = list(csv.DictReader(io.StringIO(as_csv(results))))
    objects = [json.loads(line) for line in as_jsonl(results).splitlines()]
    assert [{name: float(value) for name, value in row.items()} for row in rows] == objects
    assert list(rows[0]) == list(objects[0])


def test_a_history_without_an_epoch_has_its_names() -> None:
    assert as_csv([]).startswith("epoch,train_loss,valid_loss,")
