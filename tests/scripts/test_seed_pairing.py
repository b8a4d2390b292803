"""Differences of equal seeds, against a table computed by hand."""

import pytest
import seed_pairing

ROWS = """dataset,trainer,run,fold,label,metric,n,mean
A,one,T_seed1,0,foreground mean,Dice,40,0.50
A,one,T_seed2,0,foreground mean,Dice,40,0.60
A,one,T_seed3,0,foreground mean,Dice,40,0.70
A,one,T_seed3,0,left,Dice,40,0.1
A,two,U_seed3,0,foreground mean,Dice,40,0.73
A,two,U_seed2,0,foreground mean,Dice,40,0.62
A,two,U_seed1,0,foreground mean,Dice,40,0.51
A,three,V_seed1,0,foreground mean,Dice,40,0.1
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def run(text, *arguments):
        (tmp_path / "trainings.csv").write_text(text)
        monkeypatch.setattr("sys.argv", ["seed_pairing.py", str(tmp_path / "trainings.csv"), *arguments])
        seed_pairing.main()
        return capsys.readouterr().out

    return run


def test_differences_and_their_interval(run):
    """The differences are 0.01, 0.02 and 0.03: SD 0.01; with two degrees of freedom t is 4.303, so +-0.0248."""
    out = run(ROWS, "--trainers", "one", "two")
    assert "| 3 | 0.7000 | 0.7300 | +0.0300 |" in out
    assert "| equal seeds | 3 | +0.0200 | 0.0100 | -0.0048 to +0.0448 |" in out
    assert "SD between seeds: one 0.1000, two 0.1100." in out


def test_every_dataset_has_a_table_of_its_own(run):
    both = ROWS + ROWS.partition("\n")[2].replace("A,", "B,").replace("0.73", "0.93")
    first, second = run(both, "--trainers", "one", "two").split("B:\n")
    assert "| 3 | 0.7000 | 0.7300 | +0.0300 |" in first and "| 3 | 0.7000 | 0.9300 | +0.2300 |" in second


@pytest.mark.parametrize(("arguments", "words"), [((), "3 trainers"), (("--trainers", "one", "three"), "1 seeds")])
def test_what_cannot_be_compared(run, arguments, words):
    with pytest.raises(SystemExit, match=words):
        run(ROWS, *arguments)
