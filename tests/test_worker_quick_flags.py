"""simulator/worker/quick_flags.py: Paddle's flags are what they are, and found without a search."""

import subprocess
import sys

from running import ROOT, environment

SCRIPT = """
import paddle
from simulator.worker.quick_flags import quicken_flags
slow = paddle.get_flags
quicken_flags()
quick = paddle.get_flags
quicken_flags()
assert paddle.get_flags is quick is not slow
assert paddle.nn.functional.conv.get_flags is paddle.nn.layer.conv.get_flags is quick
name = "FLAGS_check_nan_inf"
for value in (False, True, False):
    paddle.set_flags({name: value})
    assert quick(name) == quick([name]) == slow(name) == {name: value}
for wrong in ("FLAGS_no_such_flag", 3):
    for _ in range(2):
        try:
            quick(wrong)
        except (ValueError, TypeError) as error:
            print(type(error).__name__)
# A linear layer does not search.
linear, x, calls = paddle.nn.Linear(2, 3), paddle.ones([1, 2]), []
linear(x)
import sys
sys.setprofile(lambda frame, event, arg: calls.append(frame.f_code.co_name))
linear(x)
sys.setprofile(None)
assert "_get_flags" in calls and "get_flags" not in calls, calls
"""


def test_values_are_read_anew_and_what_is_no_flag_is_refused_as_ever():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ValueError", "ValueError", "TypeError", "TypeError"]
