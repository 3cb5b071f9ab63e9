"""The tiny task with other weights than the number of examples; `--trouble` names which."""

import math

import tiny_task

KINDS = {
    "scaled": lambda n: math.ldexp(n, -40),
    "root": lambda n: math.sqrt(n),
    "some": lambda n: float(n > 9),
    "nobody": lambda n: 0,
    "nan": lambda n: math.nan,
    "negative": lambda n: -n,
    "text": lambda n: "heavy",
}


class WeightsTrainer(tiny_task.TinyTrainer):
    """Says what a user weighs."""

    def weight(self, examples):
        return KINDS[self.trouble](len(examples["y"]))


if __name__ == "__main__":
    tiny_task.TinyTrainer = WeightsTrainer
    tiny_task.main()
