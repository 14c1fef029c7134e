"""The promises of `template`; run it with `python -m pytest test_template.py`."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab import TASKS
from titanlab.platform.plugins import load_plugin

load_plugin(str(Path(__file__).with_name("template.py")))
TemplateConfig = TASKS["template"]


def test_a_batch_depends_on_its_number_alone() -> None:
    task, again = TemplateConfig().build(), TemplateConfig().build()
    batches, later = task.train_batches(0, 4), again.train_batches(0, 4, start=2)
    first, _, third = next(batches), next(batches), next(batches)
    assert all(torch.equal(one, other) for one, other in zip(third, next(later), strict=True))
    assert not torch.equal(first.ids, third.ids)
    assert not torch.equal(first.ids, next(task.train_batches(1, 4)).ids)


def test_ids_are_below_the_vocabulary_and_rows_as_long_as_declared() -> None:
    config = TemplateConfig.model_validate({"symbols": 5, "alphabet": 3})
    batch = next(config.build().train_batches(0, 7))
    assert batch.ids.shape == batch.targets.shape == batch.mask.shape == (7, config.row_length)
    assert 0 <= int(batch.ids.min()) and int(batch.ids.max()) < config.vocab_size


class Oracle(nn.Module):
    """Knows the rule: at each position of the second half, the symbol that stood `symbols` tokens before."""

    def __init__(self, symbols: int, vocab_size: int) -> None:
        super().__init__()
        self.symbols, self.vocab_size = symbols, vocab_size

    def forward(self, ids: Tensor) -> tuple[Tensor, None]:
        said = torch.roll(ids, self.symbols, dims=1)
        return 100.0 * F.one_hot(said, self.vocab_size).float(), None


# Who knows the rule scores 1, who does not is at chance: the metric measures what it says.
def test_an_oracle_scores_one_and_a_model_that_knows_nothing_is_at_chance() -> None:
    config = TemplateConfig.model_validate({"symbols": 6, "alphabet": 10, "eval_examples": 500})
    task = config.build()
    for split in ("val", "test"):
        known = task.evaluate(Oracle(6, config.vocab_size), split)
        assert set(known) == set(config.metrics()) and known["accuracy"] == 1.0 and known["loss"] < 1e-6
        assert 0.0 < task.evaluate(Oracle(5, config.vocab_size), split)["accuracy"] < 0.2
