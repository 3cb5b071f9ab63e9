"""The tiny task with a frozen base."""

import tiny_task


class FrozenTrainer(tiny_task.TinyTrainer):
    """Another model; `trouble` "thaw" trains what is frozen, "write" writes to it, "replace" puts another there."""

    def make_model(self):
        from frozen_model import FrozenModel

        return FrozenModel(tiny_task.FEATURES, tiny_task.CLASSES)

    def misbehave(self, model):
        if self.trouble == "thaw":
            model.out.weight.stop_gradient = False
        if self.trouble == "write":
            model.out.weight.set_value(model.out.weight + 1.0)
        if self.trouble == "replace":
            import paddle

            model.out.weight = paddle.nn.Linear(5, tiny_task.CLASSES).weight
            model.out.weight.stop_gradient = True


if __name__ == "__main__":
    tiny_task.TinyTrainer = FrozenTrainer
    tiny_task.main()
