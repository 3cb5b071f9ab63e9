"""Federated training of a language model on LEAF-style Reddit data: the page to copy for a task of your own.

python application.py lm_data                    one process plays all parts
mpirun -np 2 python application.py lm_data       a scheduler and a simulator
python application.py --help                     every setting
"""

from pydantic import Field

from reader import LeafRedditReader
from scheduler import FedAvg, ServerOptimizer
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import LanguageModelTrainer


class RecipeSettings(Settings):
    """Federated training of a language model: DATA holds one folder a day (YYYYMMDD) with train and test files."""

    server_lr: float | None = Field(
        None, description="server learning rate (default: 1.85 for fedavg, else the optimizer's own)"
    )

    def make_server_optimizer(self) -> ServerOptimizer:
        """FedAvg goes further than the mean delta in this recipe."""
        if self.server_optimizer == FedAvg.name and self.server_lr is None:
            return FedAvg(1.85)
        return super().make_server_optimizer()


def main() -> None:
    """Settings, pieces, run: the same lines on every rank."""
    settings = parse_settings(RecipeSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(LeafRedditReader())
    framework.set_trainer(LanguageModelTrainer())
    # Sampler, test sampler and server optimizer come from the settings; to use your own:
    # framework.set_sampler(...), framework.set_test_sampler(...), framework.set_fl_optimizer(...)
    framework.run()


if __name__ == "__main__":
    main()
