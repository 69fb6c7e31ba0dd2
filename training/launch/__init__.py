"""Several workers: on this machine by `convmixer launch`, on a cluster by the Slurm script or the JobSet beside it."""

from .workers import HEARTBEAT, INTERRUPTED, STOPPED, Launch, touch_heartbeat

__all__ = ["HEARTBEAT", "INTERRUPTED", "STOPPED", "Launch", "touch_heartbeat"]
