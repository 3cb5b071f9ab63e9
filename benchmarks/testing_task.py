"""The language model's page, on which users may be tested one by one; run by testing.py.

python benchmarks/testing_task.py DATA [--one-by-one]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from application import RecipeSettings
from reader import LeafRedditReader
from simulator import FLSimRoleMaker, SimulationFramework, parse_settings
from trainer import LanguageModelTrainer


class TestingSettings(RecipeSettings):
    """The recipe's, and how users are tested."""

    one_by_one: bool = False


class OneByOne(LanguageModelTrainer):
    """Tests each user by itself."""

    def tests_together(self, model: Any, private: Sequence[str]) -> int:
        """None."""
        return 0


def main() -> None:
    """As application.py."""
    settings = parse_settings(TestingSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(LeafRedditReader())
    framework.set_trainer(OneByOne() if settings.one_by_one else LanguageModelTrainer())
    framework.run()


if __name__ == "__main__":
    main()
