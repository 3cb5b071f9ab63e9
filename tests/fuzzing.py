"""Mutated messages for the fuzz tests: of every method, on the level of bytes, of fields and of streams."""

import contextlib
import math

from doors import claimed
from google.protobuf import message_factory
from google.protobuf.message import DecodeError
from hostile import DATA, PEER, SCHEDULER

from protos.codec import tensor_chunks, to_bundle
from protos.stubs import data_server_pb2 as dpb
from protos.stubs import peer_server_pb2 as ppb
from protos.stubs import scheduler_server_pb2 as pb
from protos.stubs import tensor_pb2

# The run beside the noise: what it says is not said by the noise.
RANKS, DAY, RUN_UID = (1, 2), "20200101", "mine-run"
# No round of the run beside comes so far; below it a rank of the run may only be heard of round 0, which is over.
FAR = 1 << 20

STRINGS = [
    "",
    "w",
    "mine",
    "mine-noise",
    "20200102",
    "../../x",
    "u" * 1025,
    "\x00",
    "é\U0001f600",
    "train",
    "NaN",
    "%s%n",
]
DOUBLES = [0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 5e-324]
WHOLE = [0, 1, 2, 3, 9, 255, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
READ_ONLY = {"GetUserData", "GetUserParams", "GetSharedMemory", "GetCheckpoints", "GetPart"}


def templates(array):
    """(service, method) -> streams of right messages, but of a rank not in the run or of a round that is over."""
    chunks = list(tensor_chunks(array))
    key = pb.RoundKey(rank=9, date=DAY, round=1, step=FAR)
    late = pb.RoundKey(rank=1, date=DAY, round=1, step=0)
    users = [pb.UserResult(uid="u1", examples=1, weight=1.0, metrics={"loss": pb.Metric(sum=1, count=1)})]
    tail = pb.RoundReport(timings=pb.Timings(pull=1, train=1))

    def push(k):
        head = pb.RoundReport(key=k, users=users)
        return [
            pb.ParamsMessage(report=head),
            *(pb.ParamsMessage(chunk=c) for c in chunks),
            pb.ParamsMessage(report=tail),
        ]

    reports = [pb.RoundReport(key=key, users=users), tail]
    handle = pb.MemoryHandle(machine="m", pid=1, fd=1, token=bytes(16))
    names = pb.ParamsMessage(private_names=pb.PrivateNames(names=["mine"]))
    uid = dpb.UserDataKey(uid="mine-noise", set=dpb.DataSet(date="20200102", split="train"))
    mine = dpb.UserParamsKey(uid="mine-noise", step=3)
    examples = dpb.UserData(key=uid, examples=to_bundle(array))
    parts = [tensor_pb2.TensorBundle(tensors=[c], more=True) for c in tensor_chunks(array, 16)]
    parts[-1].more = False
    large = [dpb.UserData(key=uid if i == 0 else None, examples=part) for i, part in enumerate(parts)]
    restored = [dpb.StoredParams(key=mine if i == 0 else None, params=part) for i, part in enumerate(parts)]
    scheduler = {
        "Register": [[pb.SimulatorInfo(rank=9, host="h", data_address="a:1", shards=2, days=[DAY])]],
        "Exchange": [[pb.ExchangeRequest(rank=9, key="model", payload=b"x")]],
        "Watch": [[pb.WatchRequest(rank=9)]],
        "RequestStop": [[pb.StopRequest(rank=9, reason="SIGTERM")]],
        "ReportFailure": [[pb.Failure(rank=9, message="failed")]],
        "NextStages": [[pb.PlanRequest(rank=1, step=0)], [pb.PlanRequest(rank=9, step=FAR)]],
        "UpdateUserInstNum": [
            [pb.UserInstNum(rank=9, date=DAY, split="test", uids=["u1"], counts=[1])],
            [pb.UserInstNum(rank=9, date=DAY, split="train", uids=["u1"], counts=[1], weights=[1.0])],
        ],
        "UpdateUserWeights": [[pb.UserWeights(rank=9, date=DAY, uids=["u1"], weights=[1.0])]],
        "SampleUsersToTrain": [[pb.SampleRequest(key=k, rounds=1)] for k in (key, late)],
        "SampleUsersWithHash": [[pb.SampleRequest(key=key, rounds=1)]],
        "FixedUsersToTrain": [[pb.SampleRequest(key=late, rounds=1)]],
        "SampleUsersToTest": [[pb.TestRequest(key=k, together=9)] for k in (key, late)],
        "ChooseExchange": [[pb.Transport(rank=9, streams=True)]],
        "GetGlobalParams": [[pb.GetGlobalParamsRequest(rank=1, step=s)] for s in (0, FAR)],
        "GetSharedMemory": [[pb.SimulatorRank(rank=1)], [pb.SimulatorRank(rank=9)]],
        "UpdateGlobalParams": [push(key), push(late), [names, *push(key)[1:-1]],
                               [pb.ParamsMessage(chunk=c) for c in tensor_chunks({"mine": array["w"]})]],
        "FedAvgUpdate": [push(key), push(late)],
        "FedAvgUpdateInMemory": [[pb.MemoryPush(reports=[pb.RoundReport(key=k, users=users), tail], sums=[handle])]
                                 for k in (key, late)],
        "EndRound": [[key], [late]],
        "ReportSegments": [[pb.SegmentReport(rank=9, step=1, segments=[pb.Segment(name="a", size=1, digest=b"d")])]],
        "GetCheckpoints": [[pb.SimulatorRank(rank=9)], [pb.SimulatorRank(rank=1)]],
        "Restore": [[pb.RestoreRequest(rank=9, step=1)]],
        "UpdateTestMetrics": [reports, [pb.RoundReport(key=late, users=users), tail]],
        "Exit": [[pb.SimulatorRank(rank=9)]],
    }  # fmt: skip
    data = {
        "SendData": [[examples, examples], [*large, examples]],
        "GetUserData": [[uid]],
        "ClearUserData": [[dpb.DataSet(date="20200102", split="train")]],
        "GetUserParams": [[mine]],
        "UpdateUserParams": [
            [dpb.UserParams(key=mine, chunk=chunks[0]), *(dpb.UserParams(chunk=c) for c in chunks[1:])]
        ],
        "RestoreUserParams": [[dpb.StoredParams(key=mine, params=to_bundle(array))] * 2, restored],
        "SetPrivateStart": [chunks],
    }
    part = [ppb.PartSums(key=late, chunk=chunks[0]), *(ppb.PartSums(chunk=c) for c in chunks[1:])]
    peer = {"AddSums": [part], "GetPart": [[ppb.PartRequest(rank=2, step=s)] for s in (6, FAR)]}
    services = {SCHEDULER: scheduler, DATA: data, PEER: peer}
    for service, methods in services.items():
        assert set(methods) == {m.name for m in service.methods}
    return {(service, method): v for service, methods in services.items() for method, v in methods.items()}


class Mutator:
    """Draws mutated streams.

    Args:
        rng: a `random.Random`.
        array: name -> array, what the tensors of right messages hold.
    """

    def __init__(self, rng, array):
        self.rng, self._templates = rng, templates(array)
        self._methods = list(self._templates)

    def draw(self):
        """(service, method, messages as bytes) that nobody of the run beside could have said."""
        while True:
            service, method = self.rng.choice(self._methods)
            messages = self._stream(self.rng.choice(self._templates[service, method]))
            if harmless(service, method, messages):
                return service, method, messages

    def _stream(self, messages):
        rng = self.rng
        messages = [type(m).FromString(m.SerializeToString()) for m in messages]
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            self._change_field(rng.choice(messages))
        sent = [m.SerializeToString() for m in messages]
        for _ in range(rng.choice([0, 0, 1, 2])):
            i = rng.randrange(len(sent))
            sent[i] = self._change_bytes(sent[i])
        kind = rng.random()
        if kind < 0.15:
            sent.insert(rng.randrange(len(sent) + 1), rng.choice(sent))
        elif kind < 0.3:
            rng.shuffle(sent)
        elif kind < 0.4:
            del sent[rng.randrange(len(sent))]
        return sent

    def _change_bytes(self, data):
        rng, data = self.rng, bytearray(data)
        kind = rng.randrange(4)
        at = rng.randrange(len(data) + 1)
        if kind == 0:
            return rng.randbytes(rng.randrange(64))
        if kind == 1:
            for _ in range(rng.choice([1, 1, 2, 8])):
                if data:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.choice([1, 4, len(data)])]
        else:
            data[at:at] = rng.randbytes(rng.choice([1, 2, 16]))
        return bytes(data)

    def _change_field(self, message):
        rng = self.rng
        field = rng.choice(message.DESCRIPTOR.fields)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = getattr(message, field.name)[rng.choice(STRINGS)]
            self._change_field(entry)
        elif field.is_repeated:
            values = getattr(message, field.name)
            kind = rng.randrange(4)
            if kind == 0 or not values:
                message.ClearField(field.name)
            elif kind == 1:
                values.extend([values[rng.randrange(len(values))]] * rng.choice([1, 3, 200]))
            elif field.message_type is not None:
                self._change_field(rng.choice(values))
            else:
                values[rng.randrange(len(values))] = self._value(field)
        elif field.message_type is not None:
            if rng.random() < 0.2:
                message.ClearField(field.name)
            elif message.HasField(field.name) or rng.random() < 0.2:
                self._change_field(getattr(message, field.name))
        else:
            setattr(message, field.name, self._value(field))

    def _value(self, field):
        rng = self.rng
        kinds = {
            field.CPPTYPE_STRING: lambda: rng.choice(STRINGS) if field.type == field.TYPE_STRING else rng.randbytes(20),
            field.CPPTYPE_DOUBLE: lambda: rng.choice(DOUBLES),
            field.CPPTYPE_UINT32: lambda: rng.choice([n for n in WHOLE if n < 2**32]),
            field.CPPTYPE_UINT64: lambda: rng.choice(WHOLE),
            field.CPPTYPE_BOOL: lambda: rng.random() < 0.5,
        }
        return kinds[field.cpp_type]()


def speaker(service, method, messages, otherwise):
    """The rank that messages say they are of, if one is left to be read."""
    kind = message_factory.GetMessageClass(service.methods_by_name[method].input_type)
    for data in messages:
        with contextlib.suppress(DecodeError):
            return claimed([kind.FromString(data)], otherwise)
    return otherwise


def harmless(service, method, messages):
    """Whether a simulator of the run could not rightly say this now: other bits would be right if one did."""
    kind = message_factory.GetMessageClass(service.methods_by_name[method].input_type)
    for data in messages:
        try:
            message = kind.FromString(data)
        except DecodeError:
            continue
        if service is DATA:
            if method not in READ_ONLY and _names(message, RUN_UID, DAY):
                return False
        elif method not in READ_ONLY and not _of_nobody(message):
            return False
    return True


def _names(message, uid, date):
    """Whether a message of the data server is of the run's user, or of its day."""
    text = str(message)
    return uid in text or (date in text and isinstance(message, dpb.DataSet))


def _of_nobody(message):
    """Whether all keys of a message are of a rank that is not in the run, or of a round that is over or far."""
    if message.DESCRIPTOR.name in ("RoundKey", "GetGlobalParamsRequest"):
        return message.rank not in RANKS or message.step == 0 or message.step >= FAR
    if any(field.name == "rank" for field in message.DESCRIPTOR.fields) and message.rank in RANKS:
        return False
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if not all(_of_nobody(part) for part in (value if field.is_repeated else [value])):
            return False
    return True
