"""The tiny task with a model and a trainer that leave behind all that they can."""

import numpy as np
import tiny_task


class LeakyTrainer(tiny_task.TinyTrainer):
    """Fine-tunes in its test, never clears gradients at the end, and freezes what it likes."""

    def make_model(self):
        from leaky_model import LeakyModel

        return LeakyModel(tiny_task.FEATURES, tiny_task.CLASSES)

    def train_user(self, model, examples, user):
        # The order of a set of strings follows PYTHONHASHSEED.
        for name in {"a", "b", "c", "d", "e"}:
            model.out.bias.set_value(model.out.bias * 0.5 + ord(name) / 1e4)
        metrics = super().train_user(model, examples, user)
        model.loss(self.whole(examples))[0].backward()
        model.out.weight.stop_gradient = len(user.uid + str(metrics["loss"])) % 2 == 0
        return metrics

    def evaluate_user(self, model, examples, user):
        if self.trouble == "look":
            return super().evaluate_user(model, examples, user)
        half = {name: rows[: (len(rows) + 1) // 2] for name, rows in examples.items()}
        model.train()
        super().train_user(model, half, user)
        model.large.set_value(np.full(model.large.shape, float(model.out.bias[0]), "float32"))
        model.loss(self.whole(examples))[0].backward()
        model.norm.eval()
        return super().evaluate_user(model, examples, user)

    def touched_rows(self, examples):
        return {"out.weight": np.array([0])} if self.trouble == "rows" else {}

    def whole(self, examples):
        import paddle

        return {name: paddle.to_tensor(rows) for name, rows in examples.items()}


if __name__ == "__main__":
    tiny_task.TinyTrainer = LeakyTrainer
    tiny_task.main()
