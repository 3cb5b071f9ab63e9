"""Tests users one after another on the same parameters, whatever a test does to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from protos.codec import Tensors
from scheduler.rules.metrics import UserResult

if TYPE_CHECKING:
    from simulator.worker.model_state import ModelState

# Copying or comparing less than this takes no time beside a test.
_SMALL_BYTES = 64 << 10
# Users after which large parameters are looked at again.
_LOOK_EVERY = 64


class Evaluation:
    """Gives each test the round's parameters.

    Small ones are put back before each user.  Most tests change none, and copying large
    ones for each would cost as much as a part of the test.  Paddle does not tell what
    was written to (optimizers, `set_value` and running means leave a tensor's version as
    it is), so large ones are looked at: after the first 1, 2, 4, ... users of a shard, every
    64, and at the end of a share.  If one has changed, those tested since the last look are
    tested anew, and from then on everything is put back before each.  A test's result depends
    on its user and the parameters alone, so nothing shows of it but the time.

    Args:
        model: a `ModelState`.
        changes: whether tests are known to change large parameters.
    """

    def __init__(self, model: ModelState, *, changes: bool = False) -> None:
        self._model = model
        large = [name for name in model.shared if model.read(name).nbytes > _SMALL_BYTES]
        self._large, self._small = large, [name for name in model.shared if name not in large]
        # Whether tests of this task are known to change large parameters.
        self.changes = changes
        self._tested = 0

    def run(self, numbers: Iterable[int], shared: Tensors, test: Callable[[int], UserResult]) -> list[UserResult]:
        """Tests users.

        Args:
            numbers: of the users.
            shared: the round's shared parameters; the model holds them.
            test: tests one.

        Returns:
            Their results, in their order.
        """
        results: list[UserResult] = []
        # Tested since the parameters were last known to be whole.
        unsure: list[int] = []

        def test_one(number: int) -> UserResult:
            self._model.load({name: shared[name] for name in (self._model.shared if self.changes else self._small)})
            return test(number)

        def test_again() -> None:
            self.changes = True
            del results[len(results) - len(unsure) :]
            results.extend(map(test_one, unsure))
            unsure.clear()

        for number in numbers:
            try:
                results.append(test_one(number))
            except Exception:
                # What a test before it left behind may be to blame.
                if self.changes or not unsure:
                    raise
                test_again()
                results.append(test_one(number))
            if self.changes:
                continue
            unsure.append(number)
            self._tested += 1
            if self._tested & (self._tested - 1) == 0 or self._tested % _LOOK_EVERY == 0:
                if self._changed(shared):
                    test_again()
                unsure.clear()
        if unsure and self._changed(shared):
            test_again()
        return results

    def _changed(self, shared: Tensors) -> bool:
        self._model.put_back(shared)
        return bool(self._model.changed(shared, self._large))
