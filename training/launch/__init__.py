"""Training with several workers: `convmixer launch` on one machine; a Slurm script and a JobSet for clusters."""

from .workers import HEARTBEAT, INTERRUPTED, STOPPED, Launch, touch_heartbeat

__all__ = ["HEARTBEAT", "INTERRUPTED", "STOPPED", "Launch", "touch_heartbeat"]
