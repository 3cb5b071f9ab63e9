"""The main job with a net of 8 hidden units on the made-up comments of leaf_data."""

from leaf_data import WORDS

from application import RecipeSettings
from reader import LeafRedditReader
from simulator import FLSimRoleMaker, SimulationFramework, parse_settings
from trainer import LanguageModelTrainer

if __name__ == "__main__":
    settings = parse_settings(RecipeSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(LeafRedditReader(vocab_size=len(WORDS) + 2))
    framework.set_trainer(LanguageModelTrainer(lr=settings.lr, vocab_size=len(WORDS) + 2, hidden_size=8))
    framework.run()
