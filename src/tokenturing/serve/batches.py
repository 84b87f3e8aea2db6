"""Batches through the models, in the models' thread: what each session's input becomes."""

import logging
from collections.abc import Mapping, Sequence

import msgspec

from tokenturing.errors import TokenTuringError
from tokenturing.serve import messages as say
from tokenturing.serve.metrics import Metrics
from tokenturing.serve.replies import bug, error_message
from tokenturing.serve.seats import Work
from tokenturing.serve.served import Served

log = logging.getLogger(__name__)


class Batches:
    """Steps and queries of many sessions at once.

    Args:
        models: by name.
        metrics: where they are counted.
    """

    def __init__(self, models: Mapping[str, Served], metrics: Metrics):
        self._models, self._metrics = models, metrics

    def compute(self, works: Sequence[Work]) -> None:
        """Set the reply of each, and its record where it did something."""
        by_model: dict[str, list[Work]] = {}
        for work in works:
            if isinstance(work.job.message, say.Step):
                by_model.setdefault(work.seat.record.model, []).append(work)
            else:
                self._answer(work)
        for name, group in by_model.items():
            served = self._models[name]
            try:
                self._step(served, group)
                self._metrics.batch.observe(len(group))
            except Exception:
                log.exception("a batch of %d sessions failed: each is tried by itself", len(group))
                for work in group:
                    self._step_alone(served, work)

    def _step(self, served: Served, group: Sequence[Work]) -> None:
        streams = [work.seat.stream for work in group if work.seat.stream is not None]
        outcomes = served.step(streams, [work.job.message.inputs for work in group])
        for work, (events, outputs, state, error) in zip(group, outcomes, strict=True):
            message, before = work.job.message, work.seat.record
            if error:
                work.reply = error_message(error, message)
                continue
            work.record = msgspec.structs.replace(before, seq=message.seq, steps=before.steps + 1, state=state)
            work.reply = say.Stepped(before.session, message.seq, before.steps + 1, events, outputs)
            work.encoded = say.encode(work.reply)

    def _step_alone(self, served: Served, work: Work) -> None:
        """One bad session of a batch costs the others nothing."""
        record = work.seat.record
        try:
            work.seat.stream = served.resume(record.kind, record.state)
            self._step(served, [work])
        except Exception:
            log.exception("a step of session %s failed", record.session)
            work.reply, work.record = error_message(bug(), work.job.message), None

    def _answer(self, work: Work) -> None:
        message, record = work.job.message, work.seat.record
        assert work.seat.stream is not None, "it was roused"
        try:
            answers = work.seat.stream.ask(message.queries)
            self._metrics.asked.labels(record.model).inc(len(answers))
            work.reply = say.Answered(message.request, record.session, record.seq, answers)
        except TokenTuringError as error:
            work.reply = error_message(error, message)
        except Exception:
            log.exception("asking session %s failed", record.session)
            work.reply = error_message(bug(), message)
