"""Which files lie on disks that several hosts may use."""

from pathlib import Path

# File systems of a network, as Linux names them.
NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "9p", "wekafs", "panfs", "afs")


def is_on_network(file: Path) -> bool:
    """Return True if a file is on a file system that several hosts may use. On other systems than Linux, False."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return False
    # "36 35 98:0 / /data rw,noatime master:1 - nfs4 server:/data rw": the mount point, and the type behind the dash.
    found = {mount[4]: mount[mount.index("-") + 1] for mount in mounts}
    places = [place for place in found if file.is_relative_to(place)]
    kind = found[max(places, key=len)] if places else ""
    return kind in NETWORK or kind.startswith("fuse.")
