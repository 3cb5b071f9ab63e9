"""A task that leaves traces: tests fine-tune, buffers are assigned, modes, flags and gradients stay as they fall."""

import numpy as np
import tiny_task


class MessyTrainer(tiny_task.TinyTrainer):
    """Changes all of a model in training and in tests."""

    def make_model(self):
        from messy_model import MessyModel

        return MessyModel(tiny_task.FEATURES, tiny_task.CLASSES)

    def train_user(self, model, examples, user):
        # In the order in which Python walks a set of strings.
        order = [int(name) for name in {str(i) for i in range(len(examples["y"]))}]
        metrics = super().train_user(model, {name: rows[order] for name, rows in examples.items()}, user)
        self.leave_traces(model, examples)
        return metrics

    def evaluate_user(self, model, examples, user):
        """Fine-tunes, if there is enough to do it on."""
        if len(examples["y"]) > 5:
            model.train()
            super().train_user(model, examples, user)
            model.eval()
        metrics = super().evaluate_user(model, examples, user)
        self.leave_traces(model, examples)
        return metrics

    def leave_traces(self, model, examples):
        """A frozen layer, gradients, a mode, another tensor and other memory in the places of parameters."""
        import paddle

        paddle.set_grad_enabled(False)
        if len(examples["y"]) % 2:
            model.hidden.bias.stop_gradient = True
            model.norm.eval()
            with paddle.set_grad_enabled(True):
                loss, _ = model.loss({name: paddle.to_tensor(rows) for name, rows in examples.items()})
            loss.backward()
        else:
            weight = model.out.weight
            model.out.weight = paddle.create_parameter(weight.shape, "float32")
            model.out.weight.set_value(weight)
            model.out.bias.data = paddle.to_tensor(np.array(model.out.bias.numpy()))


if __name__ == "__main__":
    tiny_task.TinyTrainer = MessyTrainer
    tiny_task.main()
