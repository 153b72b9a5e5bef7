"""Creates jobs in Redis and moves them from status to status until they end.

Invariant: a job that has ended stays ended. `transition` publishes an event, so viewers learn of the new
status at once and in order. An application that keeps its jobs elsewhere needs no state machine: it writes
`status` and `user_id` to the job's hash.
"""

from __future__ import annotations

from hub.broker.connect import OUTAGE, AsyncClient, PerLoop, close, for_publishing, nodes_of, words
from hub.broker.evalsha import Script
from hub.broker.redis import RedisBroker
from hub.broker.script import CREATE_SCRIPT, Publication, interpret_job
from hub.errors import BrokerUnavailable, InvalidEvent, JobEnded, JobNotFound
from hub.job.event import EventId, checked_job_id
from hub.job.record import Job
from hub.produce.publisher import Publisher
from hub.quiet import quiet_log

logger = quiet_log("hub.publisher")


class JobStateMachine:
    """Create jobs and move them on. `JobStateMachine.from_url(url)` owns its connection, and
    `JobStateMachine(client)` uses yours. Every call raises BrokerUnavailable without Redis.
    """

    def __init__(self, client: AsyncClient, *, publication: Publication | None = None) -> None:
        nodes = nodes_of(client)
        self._script = Script(PerLoop(nodes), CREATE_SCRIPT)
        self._publication = publication or Publication()
        self._broker = RedisBroker(nodes, self._publication)
        self._publisher = Publisher(nodes, publication=self._publication, strict=True)
        self._owned: AsyncClient | None = None

    @classmethod
    def from_url(cls, url: str, *, publication: Publication | None = None) -> JobStateMachine:
        """Jobs on a connection of its own; end it with `aclose` or use it as a context manager."""
        client = for_publishing(url)
        machine = cls(client, publication=publication)
        machine._owned = client
        return machine

    async def __aenter__(self) -> JobStateMachine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, if `from_url` opened them."""
        await self._publisher.aclose()
        if self._owned is not None:
            await close(self._owned)

    async def create_job(
        self, job: str, *, user_id: str, project_id: str = "", status: str = "queued", **fields: str
    ) -> Job:
        """Create the job's hash and return it. Only the user `user_id` may watch the job.

        Raises JobExists if the id is taken, and InvalidEvent for a bad id, a field that is not text or a
        terminal status.
        """
        known = checked_job_id(job)
        if status in self._publication.terminal:
            raise InvalidEvent(f"expected a first status, got {status!r}, which is terminal")
        values = {**fields, "status": status, "user_id": user_id, "project_id": project_id}
        for name, value in values.items():
            if not isinstance(value, str):
                raise InvalidEvent(f"expected text as {name}, got {value!r}")
        try:
            interpret_job(known, await self._script.run(*self._publication.prepare_job(known, values)))
        except OUTAGE as error:
            raise BrokerUnavailable(f"job {job} was not created: {words(error)}") from error
        if self._publication.index:
            try:
                await self._broker.index.begin(user_id, known)
            except BrokerUnavailable as error:  # the job is made; a join of its owner mends the index
                logger.warning("job %s is not in the list of its owner: %s", job, error)
        return await self.get_job(known)

    async def get_job(self, job: str) -> Job:
        """Read the job's hash. Raises JobNotFound, and InvalidEvent for a bad id."""
        (found,) = await self._broker.jobs([checked_job_id(job)])
        if found is None or not found.exists:
            raise JobNotFound(f"expected a job, got {job!r}, which does not exist")
        return found

    async def transition(self, job: str, status: str, narration: str | None = None) -> EventId:
        """Set the job's status and publish the event that tells viewers; a terminal status ends the job.

        Returns the id of the event. Raises JobNotFound, and JobEnded if the job has already ended.
        """
        current = await self.get_job(job)
        if current.status in self._publication.terminal:
            raise JobEnded(f"job {job}: expected a job that runs, got one that is {current.status}")
        event_id = await self._publisher.stage_started(job, status, narration, status=status)
        assert event_id is not None, "a strict publisher raises if it cannot publish"
        return event_id
