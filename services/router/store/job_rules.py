"""The settings about jobs, and whether a job may go on under them."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.router.store.job_records import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRules:
    """The settings about jobs."""

    max_unfinished: int
    """Choices at which the state gets no more lines, running and waiting ones together."""
    max_job_lines: int
    """Lines of one job."""
    made_with: Mapping[str, str]
    """What decides about the bits of the tokens here: settings by name."""
    seed: int | None
    """Of jobs that bring none; None = drawn for each."""

    def difference(self, job: Job) -> str | None:
        """Say in one line what was different when a job began; None if nothing was."""
        then, now = job.made_with, self.made_with
        names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        if not names:
            return None
        changes = ", ".join(f"{name} {then.get(name)} and not {now.get(name)}" for name in names)
        return (
            f"the job was begun with {changes}: its lines would not be of one piece. "
            "Start the cluster as it was, or cancel the job"
        )
