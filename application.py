"""Federated training of a language model on LEAF-style Reddit data: the page to copy for a task of your own.

python application.py lm_data                    one process plays all parts
mpirun -np 2 python application.py lm_data       a scheduler and a simulator
python application.py --help                     every setting
"""

from reader import LeafRedditReader
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import LanguageModelTrainer


class RecipeSettings(Settings):
    """Federated training of a language model: DATA holds one folder a day (YYYYMMDD) with train and test files."""

    # FedAvg goes further than the mean delta in this recipe.
    server_optimizer: str = "fedavg(lr=1.85)"


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
