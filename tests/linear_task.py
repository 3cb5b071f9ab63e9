"""Softmax regression on the tiny task's users: small enough to be recomputed by hand."""

import tiny_task


class LinearTrainer(tiny_task.TinyTrainer):
    """Another model, the same training."""

    def make_model(self):
        from linear_model import LinearModel

        return LinearModel(tiny_task.FEATURES, tiny_task.CLASSES)


if __name__ == "__main__":
    tiny_task.TinyTrainer = LinearTrainer
    tiny_task.main()
