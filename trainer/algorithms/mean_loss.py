"""The mean loss among metrics."""

from scheduler import BadInput, Local, Metrics


def mean_loss(local: Local, metrics: Metrics) -> float:
    """The mean of the metric "loss"; 0 for no examples.

    Raises:
        BadInput: there is none of this name, or it is negative.
    """
    if not metrics:
        return 0.0
    if "loss" not in metrics:
        raise BadInput(f"uid {local.uid!r}: this algorithm needs the metric 'loss'; there are {', '.join(metrics)}")
    total, count = metrics["loss"]
    mean = total / count if count else 0.0
    if not mean >= 0:
        raise BadInput(f"uid {local.uid!r}: the loss is {mean}, and this algorithm needs one of 0 or more; lower --lr")
    return mean
