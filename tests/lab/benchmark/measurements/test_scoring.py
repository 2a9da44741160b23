import json

from diffpo.lab.benchmark.measurements.scoring import main


def test_both_ways_are_timed_on_the_same_pictures(tmp_path):
    main(tmp_path, shape="tiny", pictures=4, side=64, batch_size=2, rounds=1)
    found = json.loads((tmp_path / "scoring.json").read_text())
    assert len(list((tmp_path / "pictures-64").iterdir())) == 4
    assert "one at a time" in json.dumps(found)
