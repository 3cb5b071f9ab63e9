"""The tiny task's users on a model whose examples are independent, so that users are tested side by side."""

import tiny_task


class RowsTrainer(tiny_task.TinyTrainer):
    """Another model, the same training; users are tested in groups of 24 examples."""

    most = 24

    def make_model(self):
        from rows_model import RowsModel

        return RowsModel(tiny_task.FEATURES, tiny_task.CLASSES)

    def tests_together(self, model, private):
        return min(self.most, super().tests_together(model, private))


if __name__ == "__main__":
    tiny_task.TinyTrainer = RowsTrainer
    tiny_task.main()
