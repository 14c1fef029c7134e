"""What a sweep says to type next: commands that can be pasted and that mean these very trials."""

from pathlib import Path

from titanlab.commands.next_commands import DEFAULT_STORE, NextCommands


def test_what_to_do_next_repeats_the_options_that_the_sweep_was_run_with() -> None:
    following = NextCommands("my sweep.yaml", ("train.steps=3", "name=two words"), ("own.py",), Path("elsewhere"))
    options = "--set train.steps=3 --set 'name=two words' --plugin own.py --store elsewhere"
    assert following.run("--executor", "local") == f"titanlab sweep run 'my sweep.yaml' {options} --executor local"
    assert following.lines() == [
        f"rank the variants:  titanlab sweep report 'my sweep.yaml' {options}",
        "compare in MLflow:  titanlab ui --store elsewhere",  # its own name is not the file's
    ]
    plain = NextCommands("s.yaml", (), (), DEFAULT_STORE)
    assert plain.lines()[1] == "compare in MLflow:  titanlab ui s.yaml"
    part = NextCommands("s.yaml", (), (), DEFAULT_STORE, "train.clip == 1")
    assert part.run() == "titanlab sweep run s.yaml --only 'train.clip == 1'"
