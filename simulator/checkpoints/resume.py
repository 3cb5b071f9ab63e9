"""How a run goes on: in which folder, from which checkpoint, and with which private parameters."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.errors import BadInput
from scheduler.service.client import SchedulerClient
from scheduler.state.checkpoints import Offer
from simulator.checkpoints.files import FOLDER, Checkpoint, CheckpointFolder, choose, has_segment, read_segment
from simulator.checkpoints.meaning import check_meaning
from simulator.output.record_folder import RecordFolder
from simulator.settings import AUTO, Settings
from simulator.users.data_client import DataClient

logger = logging.getLogger(__name__)


def open_record(settings: Settings, meaning: Mapping[str, Any]) -> tuple[RecordFolder, dict[int, Checkpoint]]:
    """Takes the folder of the record for this run; the scheduler's part.

    Args:
        settings: of the run.
        meaning: what its results depend on.

    Returns:
        The folder, and the checkpoints the run may go on from by step, newest first; none for a new run.

    Raises:
        FLError: the folder cannot be used, another run has it, there is nothing there to go on from, or it is of a
            run with other settings.
    """
    if settings.resume is None:
        if settings.output is None:
            return RecordFolder.make_new(Path("runs")), {}
        return RecordFolder.make(settings.output), {}
    if settings.resume == AUTO:
        assert settings.output is not None, "check_record asks for it"
        folder = RecordFolder.make(settings.output)
    else:
        assert isinstance(settings.resume, Path)
        folder = _folder_to_resume(settings.resume, settings.output)
    found = CheckpointFolder(folder.path / FOLDER).read_all()
    if found:
        check_meaning(found[0].meaning, meaning, found[0].snapshot.step)
    elif settings.resume != AUTO:
        raise _nothing_in(folder.path)
    else:
        logger.info("--resume auto: %s holds no whole checkpoint; the run starts", folder.path)
    return folder, {checkpoint.snapshot.step: checkpoint for checkpoint in found}


def _folder_to_resume(resume: Path, output: Path | None) -> RecordFolder:
    if output is not None and output.resolve() != resume.resolve():
        raise BadInput(f"--output {output}: a resumed run goes on in --resume {resume}; leave it out")
    if not resume.is_dir():
        raise BadInput(f"--resume {resume}: there is no such folder")
    if not (resume / FOLDER).is_dir():
        # Nothing is put into a folder that is no record.
        raise _nothing_in(resume)
    return RecordFolder(resume, "--resume")


def _nothing_in(folder: Path) -> BadInput:
    return BadInput(
        f"--resume {folder}: there is no whole checkpoint in {folder / FOLDER}; start again without --resume"
    )


@dataclass(frozen=True)
class Resumed:
    """The checkpoint all simulators go on from.

    Attributes:
        offer: what it holds.
        readers: the rank that reads each of its files of private parameters.
    """

    offer: Offer
    readers: Mapping[str, int]

    def restore_private(self, folder: Path, rank: int, client: DataClient) -> None:
        """Hands the private parameters of the files that are this rank's to read to their owners of now."""
        for segment in self.offer.segments:
            if self.readers[segment.name] == rank:
                client.restore_params(read_segment(folder / segment.name))


def agree_on_checkpoint(client: SchedulerClient, folder: Path) -> Resumed:
    """Agrees with the other simulators on the newest checkpoint whose files are all there.

    Args:
        client: of the scheduler.
        folder: of the checkpoints, as this simulator sees it.

    Raises:
        BadInput: there is none.
    """
    offers = client.get_checkpoints()
    here = {s.name for s in {s for offer in offers for s in offer.segments} if has_segment(folder, s)}
    posted = client.exchange("checkpoints", json.dumps(sorted(here)).encode())
    seen = {rank: set(json.loads(names)) for rank, names in posted.items()}
    resumed = Resumed(*choose(offers, seen, folder))
    client.restore(resumed.offer.step)
    return resumed
