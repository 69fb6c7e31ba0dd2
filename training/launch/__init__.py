"""Several workers: on this machine by `convmixer launch`, on a cluster by the Slurm script or the JobSet beside it."""

from .workers import HEARTBEAT, STOPPED, Launch, beat

__all__ = ["HEARTBEAT", "STOPPED", "Launch", "beat"]
