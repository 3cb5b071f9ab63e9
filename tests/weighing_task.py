"""Softmax regression whose users weigh what the `--weigh` setting says."""

import math
import random

import linear_task
import numpy as np
import tiny_task


class WeighingTrainer(linear_task.LinearTrainer):
    """The weight is a function of the whole of a user's examples, not the sum of those of its pieces."""

    how = ""

    def weight(self, examples):
        count = len(examples["y"])
        kind, _, number = self.how.partition(":")
        if kind == "sqrt":
            return float(number) * math.sqrt(count)
        if kind == "times":
            return float(number) * count
        if kind == "large":  # others are not counted
            return float(count) if count > int(number) else 0.0
        if kind == "whole":  # a piece has no weight
            return 1.0 / (count > int(number))
        if kind == "random":
            return random.random() + np.random.random()
        return {"nan": math.nan, "negative": -1.5, "inf": math.inf, "none": None, "zero": 0}[kind]


class WeighingSettings(tiny_task.TinySettings):
    """The tiny task's settings, and the weight."""

    weigh: str = "times:1"


def main():
    from simulator import FLSimRoleMaker, SimulationFramework, parse_settings

    settings = parse_settings(WeighingSettings)
    trainer = WeighingTrainer(
        settings.trouble, settings.trouble_uid, epochs=settings.epochs, batch_size=settings.batch_size,
        lr=settings.lr, max_grad_norm=settings.max_grad_norm,
    )  # fmt: skip
    trainer.how = settings.weigh
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(tiny_task.TinyReader())
    framework.set_trainer(trainer)
    framework.run()


if __name__ == "__main__":
    main()
