"""FedProto: users share what the classes look like, and no parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from scheduler import (
    Algorithm,
    Array,
    BadInput,
    Float64,
    Group,
    Layers,
    Local,
    Metrics,
    ServerRule,
    Shapes,
    Step,
    TensorSpec,
    check_number,
    register_algorithm,
)

# What stands for the logit of a class of which nobody has an example.
NEVER = -1e4


class MeanOfClass(ServerRule):
    """The sum of all features of a class over the number of its examples; a class that nobody has stays as it is."""

    def step(self, x: Float64, mean: Float64, slots: dict[str, Float64], at: Step) -> Float64:  # noqa: D102
        count, _ = at.scalars.get(f"class {at.array.rpartition('/')[2]}", (0.0, 0.0))
        return mean * (at.cohort / count) if count else x


@register_algorithm("fedproto")
@dataclass(frozen=True)
class FedProto(Algorithm):
    """Each user has a model of its own, whose features are held near the prototypes of all users.

    Tan et al. 2022, "FedProto: Federated Prototype Learning across Heterogeneous Clients", Algorithm 1.  The prototype
    C_j of class j is the mean of what goes into the head over all examples of it in the cohort, each user's taken
    with its model after training (equations (3) and (6)).  With z the features of an example of class y, d of them,
    the loss of a batch gets lam times the mean of

        |z - C_y|^2 / d                                                              (7)

    for classes of which there is a prototype.  All parameters are private; a user sends the sum of its features and
    the number of its examples, by class.  The usual test is of a user's model with its own head; its personal test
    takes the class of the nearest prototype (section 4.4), which is a head too: argmin |z - C_j| is
    argmax <z, C_j> - |C_j|^2 / 2 (the loss of that test is the cross entropy of these).  A user that has never trained
    does so for its test.  All begin with the same values: features of models that were drawn each for itself have
    nothing in common of which a mean would tell.

    Args:
        lam: weight of the term, 0 or more.
        head: pattern of the head's parameters, as 'out.*'; the layer of the last parameter if empty.
        label: which array of the examples holds the class.
    """

    lam: float = 1.0
    head: str = ""
    label: str = "y"

    shares_nothing: ClassVar[bool] = True
    starts_alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("lam", self.lam, least=0.0)

    def check(self, shapes: Shapes) -> None:
        """Refuses a head that is not one linear layer with a bias, which prototypes can take the place of."""
        head = shapes.layers.head(self.head)
        features, classes = shapes.layers.features(self.head)
        if [shapes.layers.specs[name].shape for name in head] != [(features, classes), (classes,)]:
            raise BadInput(f"fedproto needs a head that is one linear layer with a bias; {', '.join(head)} is not")

    def private(self, layers: Layers) -> Sequence[str]:
        """All."""
        return tuple(layers.specs)

    def groups(self, shapes: Shapes) -> Mapping[str, Group]:
        """A prototype a class."""
        features, classes = shapes.layers.features(self.head)
        specs = {str(label): TensorSpec("float32", (features,)) for label in range(classes)}
        return {"prototypes": Group(specs, MeanOfClass(), weight="one")}

    def train(self, local: Local) -> Metrics:
        """Local training with the term; then the features of the user's examples."""
        metrics = self._train(local)
        features, labels = local.features(head=self.head), self._labels(local, local.examples)
        sums = {}
        for label in np.unique(labels):
            found = features[labels == label]
            sums[str(label)] = found.sum(axis=0)
            local.scalar(f"class {label}", len(found))
        local.send("prototypes", sums)
        return metrics

    def personalise(self, local: Local) -> None:
        """The nearest prototype."""
        if not local.known:
            self._train(local)
        weight, bias = local.layers.head(self.head)
        prototypes, there = self._prototypes(local)
        if there.any():
            never = np.where(there, 0, NEVER)
            local.load({
                weight: prototypes.T.copy(),
                bias: (never - 0.5 * (prototypes * prototypes).sum(axis=1)).astype(prototypes.dtype),
            })  # fmt: skip

    def _labels(self, local: Local, examples: Mapping[str, Array]) -> Array:
        """The class of each example.

        Raises:
            BadInput: there is no such array, or not one integer for each example.
        """
        labels = examples.get(self.label)
        if labels is None:
            raise BadInput(f"uid {local.uid!r} has no {self.label!r}: label='...' is one of {', '.join(examples)}")
        if labels.dtype.kind not in "iu" or labels.size != len(labels):
            raise BadInput(
                f"uid {local.uid!r}: {self.label!r} is {labels.dtype}{list(labels.shape)}, where fedproto needs one "
                "integer, the class, for each example; say which array it is by label='...'"
            )
        return labels.reshape(-1)

    def _prototypes(self, local: Local) -> tuple[Array, Array]:
        """(classes, d), and of which there is one; nothing is known of a class whose prototype is still zero."""
        group = local.group("prototypes")
        prototypes = np.stack([group[str(label)] for label in range(len(group))])
        there: Array = np.asarray(prototypes.any(axis=1))
        return prototypes, there

    def _train(self, local: Local) -> Metrics:
        prototypes, there = self._prototypes(local)

        def on_features(z: Array) -> Array:
            labels = self._labels(local, local.batch)
            gradient: Array = z - prototypes[labels]
            gradient *= there[labels][:, None] * (2 * self.lam / z.size)
            return gradient

        return local.train(on_features=on_features if self.lam and there.any() else None, head=self.head)
