"""Training with several workers: `convmixer launch` on one machine; a Slurm script and a JobSet for clusters."""

from .workers import Launch, touch_heartbeat

__all__ = ["Launch", "touch_heartbeat"]
